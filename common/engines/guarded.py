"""The script's end of the guard: start an engine under it, watch it, end it, and hear that it is gone."""

from __future__ import annotations

import atexit
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


class Guard:
    """A guard's process and the pipe to it; one that holds an importer serves one engine after another."""

    def __init__(self, importer: Mapping[str, Any] | None) -> None:
        self.importer = importer
        self.process = subprocess.Popen(
            [sys.executable, "-m", "common.engines.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for the script, which then stops the engine
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._unread = b""

    @property
    def pid(self) -> int:
        """Of the guard itself."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone, whoever ended it."""
        return self.process.poll() is not None

    def say(self, line: str) -> None:
        """One line to it; lost where it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def listen(self, timeout_s: float) -> list[dict[str, Any]]:
        """What it has said since."""
        if not self._selector.get_map() or not self._selector.select(timeout_s):
            return []
        assert self.process.stdout is not None
        data = self.process.stdout.read()
        if not data:
            self._selector.unregister(self.process.stdout)
            return []
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Have it end, and what it keeps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:  # its report is what counts; a stuck guard must not stay behind
            self.process.kill()
            self.process.wait()
        self._selector.close()
        self.process.stdout.close()


_idle: list[Guard] = []  # with an importer each, for the next engine; at most as many as ran beside each other


def close_idle_guards() -> None:
    """End the importers that wait for another engine; at the end of this process it happens by itself."""
    while _idle:
        _idle.pop().close()


atexit.register(close_idle_guards)


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
        self.imported_before_s = 0.0  # seconds of imports that were done already when this command began
        self._gone: dict[str, Any] | None = None
        self._importer_pid: int | None = None
        self._given_back = False
        scratch = environment.get("TMPDIR") or tempfile.mkdtemp(prefix="lab-")
        self._guard, self._is_first = _guard_with(importer)
        spec = {"command": list(command), "env": dict(environment), "log": str(log), "scratch": scratch}
        self._guard.say(json.dumps(spec | {"importer": importer}))

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the command still runs; reads what the guard has said, without waiting."""
        self._listen(0)
        return self.returncode is None and self._gone is None and not self._given_back and not self._guard.ended

    def pids(self) -> list[int]:
        """Every process of the tree; the guard and its importer left out."""
        if self._given_back:
            return []
        self._listen(0)
        try:
            tree = psutil.Process(self._guard.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in tree if child.pid != self._importer_pid]

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
        if not self._given_back:
            self._guard.say("stop")
        deadline = time.monotonic() + STOP_DEADLINE_S
        while self._gone is None and time.monotonic() < deadline and not self._guard_ended():
            self._listen(0.1)
        self._give_back()
        report = self._gone or {}
        return Gone(
            seconds=report.get("seconds", STOP_DEADLINE_S),
            killed=report.get("killed", 0),
            shared_memory_removed=tuple(report.get("shared_memory_removed", ())),
            processes_left=tuple(report.get("processes_left", ())),
            shared_memory_left=tuple(report.get("shared_memory_left", ())),
            port_free=port_is_free(self.port),
        )

    def _guard_ended(self) -> bool:
        return self._guard.ended and not self._listen(0)

    def _give_back(self) -> None:
        """Once: the guard waits for the next engine, or ends."""
        if self._given_back:
            return
        self._given_back = True
        if self._guard.importer is not None and self._gone is not None:
            _idle.append(self._guard)
        else:
            self._guard.close()

    def _listen(self, timeout_s: float) -> bool:
        """Take in what the guard has said; whether there was anything."""
        if self._gone is not None:
            return False
        events = self._guard.listen(timeout_s)
        for event in events:
            if event["event"] == "started":
                self._importer_pid = event["importer"]
                self.imported_before_s = 0.0 if self._is_first else event["imports_s"] or 0.0
            elif event["event"] == "exited":
                self.returncode = event["returncode"]
            elif event["event"] == "gone":
                self._gone = event
        return bool(events)


def _guard_with(importer: Mapping[str, Any] | None) -> tuple[Guard, bool]:
    """An idle guard that has such an importer, or a new one; whether it is new."""
    for guard in _idle:
        if guard.importer == importer and not guard.ended:
            _idle.remove(guard)
            return guard, False
    close_idle_guards()  # whatever they have imported is not what is wanted now
    return Guard(importer), True


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
