"""The script's end of the guard: start an engine under it, watch it, end it, and hear that it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

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
    """A command under a guard. Whatever happens to this process, the command's whole tree ends with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, port: int) -> None:
        self.log, self.port = log, port
        self.returncode: int | None = None
        self._gone: dict[str, Any] | None = None
        scratch = environment.get("TMPDIR") or tempfile.mkdtemp(prefix="lab-")
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "common.engines.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for the script, which then stops the engine
        )
        self._selector = selectors.DefaultSelector()
        assert self._guard.stdout is not None
        os.set_blocking(self._guard.stdout.fileno(), False)
        self._selector.register(self._guard.stdout, selectors.EVENT_READ)
        self._unread = b""
        spec = {"command": list(command), "env": dict(environment), "log": str(log), "scratch": scratch}
        self._say(json.dumps(spec))

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the command still runs; reads what the guard has said, without waiting."""
        self._listen(0)
        return self.returncode is None and self._gone is None and self._guard.poll() is None

    def pids(self) -> list[int]:
        """Every process of the tree, the guard left out."""
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
        self._say("ready")

    def stop(self) -> Gone:
        """End the tree (gently first) and return the proof; harmless when it has already ended."""
        self._say("stop")
        deadline = time.monotonic() + STOP_DEADLINE_S
        while self._gone is None and time.monotonic() < deadline and not self._guard_ended():
            self._listen(0.1)
        self._close()
        report = self._gone or {}
        return Gone(
            seconds=report.get("seconds", STOP_DEADLINE_S),
            killed=report.get("killed", 0),
            shared_memory_removed=tuple(report.get("shared_memory_removed", ())),
            processes_left=tuple(report.get("processes_left", ())),
            shared_memory_left=tuple(report.get("shared_memory_left", ())),
            port_free=port_is_free(self.port),
        )

    def _close(self) -> None:
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        try:
            self._guard.wait(5)
        except subprocess.TimeoutExpired:  # its report is what counts; a stuck guard must not stay behind
            self._guard.kill()
            self._guard.wait()
        self._selector.close()
        self._guard.stdout.close()

    def _guard_ended(self) -> bool:
        return self._guard.poll() is not None and not self._listen(0)

    def _say(self, line: str) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # the guard has already done its work
            self._guard.stdin.write(line.encode() + b"\n")
            self._guard.stdin.flush()

    def _listen(self, timeout_s: float) -> bool:
        """Take in what the guard has said; whether there was anything."""
        if self._gone is not None or not self._selector.get_map() or not self._selector.select(timeout_s):
            return False
        assert self._guard.stdout is not None
        data = self._guard.stdout.read()
        if not data:
            self._selector.unregister(self._guard.stdout)
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "exited":
                self.returncode = event["returncode"]
            elif event["event"] == "gone":
                self._gone = event
        return True


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
