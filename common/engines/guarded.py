"""The script's end of the guard: start an engine under it, watch it, end it, and hear that it is gone."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from common.engines.guard_link import Guard, importer_for

STOP_DEADLINE_S = 45.0  # the guard's own deadlines add up to 30 s


@dataclass(frozen=True)
class Gone:
    """The proof that nothing of an engine is left, or what is."""

    seconds: float
    killed: int  # processes that had to be ended by SIGKILL
    shared_memory_removed: tuple[str, ...]
    processes_left: tuple[int, ...]
    shared_memory_left: tuple[str, ...]
    port_free: bool
    device_memory_left_bytes: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is left."""
        left = self.processes_left or self.shared_memory_left or self.device_memory_left_bytes
        return self.port_free and not left


class GuardedProcess:
    """A command under a guard. Whatever happens to this process, the command's whole tree ends with it.

    With `importer` (see `settings.importer_of`) the command is forked from a process that stays for the next one.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        port: int,
        importer: Mapping[str, Any] | None = None,
    ) -> None:
        self.log, self.port = log, port
        self.returncode: int | None = None
        self.imported_before_s = 0.0  # seconds of imports that were done already when this command was asked for
        self._gone: dict[str, Any] | None = None
        self._closed = False
        self._asked_at_s = time.monotonic()
        scratch = environment.get("TMPDIR") or tempfile.mkdtemp(prefix="lab-")
        self._guard = Guard(importer_for(importer, log) if importer else None)
        spec = {"command": list(command), "env": dict(environment), "log": str(log), "scratch": scratch}
        self._guard.say(json.dumps(spec))

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the command still runs; reads what the guard has said, without waiting."""
        self._listen(0)
        return self.returncode is None and self._gone is None and not self._guard.ended

    def pids(self) -> list[int]:
        """Every process of the tree; the guard left out."""
        self._listen(0)
        if self._closed or self._guard.pid is None:
            return []
        try:
            return [child.pid for child in psutil.Process(self._guard.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def owns_port(self) -> bool:
        """Whether the process listening on the port is one of ours, and not somebody else's server."""
        return self.listener() is not None

    def listener(self) -> psutil.Process | None:
        """The process of ours that listens on the port: the API server."""
        for pid in self.pids():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process = psutil.Process(pid)
                connections = process.net_connections("tcp")
                if any(c.status == psutil.CONN_LISTEN and c.laddr.port == self.port for c in connections):
                    return process
        return None

    def serving(self) -> None:
        """Tell the guard that measuring begins: it then looks for shared memory only rarely."""
        self._guard.say("ready")

    def stop(self) -> Gone:
        """End the tree (gently first) and return the proof; harmless when it has already ended."""
        began = time.monotonic()
        if not self._closed:
            self._end_guard(began + STOP_DEADLINE_S)
        report = self._gone or {}
        return Gone(
            seconds=report.get("seconds", time.monotonic() - began),
            killed=report.get("killed", 0),
            shared_memory_removed=tuple(report.get("shared_memory_removed", ())),
            processes_left=tuple(report.get("processes_left", ())),
            shared_memory_left=tuple(report.get("shared_memory_left", ())),
            port_free=port_is_free(self.port),
        )

    def _end_guard(self, deadline: float) -> None:
        self._closed = True
        self._guard.say("stop")
        self._listen(0)
        if self._guard.importer is not None and self._guard.pid is None:  # it imports; nobody waits for that any more
            self._guard.importer.close()
        while self._gone is None and not self._guard.ended and time.monotonic() < deadline:
            self._listen(0.1)
        self._guard.close()

    def _listen(self, timeout_s: float) -> None:
        """Take in what the guard has said."""
        if self._gone is not None or self._guard.ended:
            return
        for event in self._guard.listen(timeout_s):
            if event["event"] == "started" and "imported_s" in event:
                began_s, ended_s = event["imported_s"]
                self.imported_before_s = max(0.0, min(self._asked_at_s, ended_s) - began_s)
            elif event["event"] == "exited":
                self.returncode = event["returncode"]
            elif event["event"] == "gone":
                self._gone = event
        if self._guard.ended and self._guard.pid is None and self._guard.importer is not None:
            self.returncode = self._guard.importer.returncode


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the port now; connections winding down do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
