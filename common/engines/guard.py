"""The guard: a small process that starts engines, one after another, and outlives the script only to end them.

It runs in a session of its own, adopts every orphan of an engine (subreaper), and holds a pipe to the script.
When the pipe closes, because the script ended or was killed, even by -9, the guard ends the engine's whole tree,
removes the shared-memory files its processes had mapped, and exits. Standard library only: it must start at once,
stay small, and never fail on an import.

Input, one line each: a JSON `{"command", "env", "log", "scratch", "importer"}`, then optionally `ready` and `stop`;
after `gone`, the next. Where `importer` is not null (`{"command", "env"}`, see importer.py), the engine is forked from
it, and it stays for the next engine.
Output, JSON lines: `{"event": "started" | "exited" | "gone", ...}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.engines.process_tree import (
    adopt_orphans,
    descendants,
    end_with_parent,
    send,
    shared_memory_files,
    shared_memory_of,
)

PATIENT_S = (15.0, 2.0)  # from SIGINT to SIGTERM, from SIGTERM to SIGKILL: a stop that was asked for
HASTY_S = (2.0, 1.0)  # the script is gone: nobody waits for a graceful end
ORPHANS_S = 1.0  # once the main process has ended, whoever is left has this long to follow it
# Ranks on CPUs spin while they wait for each other. The client, which takes a hundredth of a core, must not stand in
# line behind them: where they share cores its stamps would be late by whole time slices.
ENGINE_NICENESS = 5
STARTING_TICK_S, SERVING_TICK_S = 0.5, 5.0  # how often shared memory is noted; rarely once requests are timed


def main() -> None:
    """Run engines until the script is gone."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    adopt_orphans()
    importer: Importer | None = None
    with open(0, "rb", buffering=0, closefd=False) as script:  # unbuffered, for select()
        while not asked:
            if not select.select([script], [], [], STARTING_TICK_S)[0]:
                continue
            if not (line := script.readline()):
                break
            if line.split() in ([b"ready"], [b"stop"]):  # said to an engine that had ended by then
                continue
            spec = json.loads(line)
            importer = _importer_for(spec, importer)
            engine = Tree(spec, importer)
            deadlines = _watch(engine, lambda: asked)
            if engine.exit_status is not None:
                _tell("exited", returncode=engine.exit_status)
            _tell("gone", **engine.end(deadlines))
    if importer is not None:
        importer.end()


def _importer_for(spec: dict[str, Any], there: Importer | None) -> Importer | None:
    """The one that is there, if it is what is wanted."""
    if there is not None and (there.spec != spec["importer"] or not there.alive):
        there.end()
        there = None
    return there or (Importer(spec["importer"], spec["log"]) if spec["importer"] else None)


def _watch(engine: Tree, asked: Callable[[], bool]) -> tuple[float, float]:
    """Return once the engine has ended or is to end, with the time that it then has."""
    tick_s = STARTING_TICK_S
    while not asked() and engine.note_exit() is None:
        readable, _, _ = select.select([0, *engine.speaks], [], [], tick_s)
        if any(file in readable for file in engine.speaks):
            engine.listen()
        if 0 in readable:
            words = os.read(0, 4096).split()
            if not words or b"stop" in words:
                return PATIENT_S if words else HASTY_S
            if b"ready" in words:
                tick_s = SERVING_TICK_S
        engine.note_shared_memory()
    return PATIENT_S


class Importer:
    """A process that has imported vLLM, and forks engines, which become this process's children."""

    def __init__(self, spec: dict[str, Any], log: str) -> None:
        self.spec = spec
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = _start(spec["command"], spec["env"], log, theirs.fileno())
        self.pid = self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it can fork another engine."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG)[0] == self.pid:
                self.process.returncode = -signal.SIGKILL
        return self.process.returncode is None

    def end(self) -> None:
        """End it; it holds nothing, so that there is nothing to be gentle with."""
        self.socket.close()
        send(signal.SIGKILL, [self.pid])
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.process.returncode = -signal.SIGKILL


class Tree:
    """An engine's main process and everything that descends from it."""

    def __init__(self, spec: dict[str, Any], importer: Importer | None) -> None:
        self.before = set(shared_memory_files())
        self.shared_memory: set[str] = set()
        self.scratch = Path(spec["scratch"])
        self.exit_status: int | None = None
        self.pid: int | None = None  # not known yet, while its importer imports
        self.importer = importer
        self._ended: dict[int, int] = {}
        if importer is None:
            self.process = _start(spec["command"], spec["env"], spec["log"], subprocess.DEVNULL)
            self._began(self.process.pid, None)
        else:
            wanted = {name: spec[name] for name in ("command", "env", "log")} | {"guard": os.getpid()}
            with contextlib.suppress(OSError):  # it has just died: noted as this engine's exit
                importer.socket.sendall(json.dumps(wanted).encode() + b"\n")

    @property
    def speaks(self) -> list[int]:
        """The file in which it will be heard that it has begun."""
        return [self.importer.socket.fileno()] if self.importer is not None and self.pid is None else []

    def listen(self) -> None:
        """Hear which process it is; an importer that has ended says nothing, and is noted as an exit."""
        assert self.importer is not None
        line = b""
        with contextlib.suppress(OSError):
            line = self.importer.socket.recv(4096)
        if line:
            told = json.loads(line)
            self._began(told["pid"], told["imports_s"])
        else:
            time.sleep(0.05)

    def _began(self, pid: int, imports_s: float | None) -> None:
        self.pid = pid
        _tell("started", pid=pid, imports_s=imports_s, importer=self.importer and self.importer.pid)

    def note_exit(self) -> int | None:
        """Reap whatever has ended; return the main process' exit status once it has one."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                self._ended[pid] = os.waitstatus_to_exitcode(status)
        if self.importer is not None and self.importer.pid in self._ended:
            self.importer.process.returncode = self._ended[self.importer.pid]
        main_pid = self.pid or (self.importer.pid if self.importer is not None else None)
        if self.exit_status is None and main_pid in self._ended:
            self.exit_status = self._ended[main_pid]
            if self.importer is None:
                self.process.returncode = self.exit_status
        return self.exit_status

    def note_shared_memory(self) -> None:
        """Remember the shared-memory files our processes have mapped or open, and that were not there before us."""
        for pid in self._processes():
            self.shared_memory.update(set(shared_memory_of(pid)) - self.before)

    def end(self, deadlines_s: tuple[float, float]) -> dict[str, Any]:
        """End every process and remove what they left; returns what had to be done, and what is still there."""
        began = time.monotonic()
        self.note_shared_memory()
        to_terminate_s, to_kill_s = deadlines_s
        if self.pid is None and self.importer is not None:  # or it would fork the engine later
            self.importer.end()
        elif self.exit_status is None and self.pid is not None:
            send(signal.SIGINT, [self.pid])
            self._wait(to_terminate_s, lambda: self.note_exit() is not None)
        self._wait_until_empty(ORPHANS_S)
        self._signal_all_until_empty(signal.SIGTERM, to_kill_s)
        killed = self._signal_all_until_empty(signal.SIGKILL, 10.0)
        removed = [name for name in sorted(self.shared_memory) if _remove(Path(name))]
        shutil.rmtree(self.scratch, ignore_errors=True)
        return {
            "seconds": round(time.monotonic() - began, 3),
            "killed": killed,
            "shared_memory_removed": removed,
            "shared_memory_left": [name for name in self.shared_memory if Path(name).exists()],
            "processes_left": list(self._processes()),
        }

    def _processes(self) -> set[int]:
        """All that descend from this guard, but for the importer: what it forked became ours."""
        return set(descendants(os.getpid())) - ({self.importer.pid} if self.importer is not None else set())

    def _signal_all_until_empty(self, number: signal.Signals, deadline_s: float) -> int:
        """Signal every process, again each round for those born meanwhile; returns how many were signalled."""
        signalled: set[int] = set()

        def signal_the_living() -> bool:
            self.note_exit()
            alive = self._processes()
            # One TERM each, so that nobody's clean-up is interrupted; KILL as often as it takes.
            send(number, alive if number == signal.SIGKILL else alive - signalled)
            signalled.update(alive)
            return not alive

        self._wait(deadline_s, signal_the_living)
        return len(signalled)

    def _wait_until_empty(self, deadline_s: float) -> None:
        def empty() -> bool:
            self.note_exit()
            return not self._processes()

        self._wait(deadline_s, empty)

    @staticmethod
    def _wait(deadline_s: float, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + deadline_s
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)


def _start(command: list[str], env: dict[str, str], log: str, stdin: int) -> subprocess.Popen[bytes]:
    """Not waited for with subprocess' wait(): as a subreaper this process reaps everything itself."""
    with Path(log).open("ab") as output:
        return subprocess.Popen(
            command,
            env=env,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_become_an_engine,
        )


def _become_an_engine() -> None:
    """Between fork and exec: what the guard ignores an engine must hear, and it must not outlive a killed guard."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.nice(ENGINE_NICENESS)
    end_with_parent()


def _tell(event: str, **facts: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
