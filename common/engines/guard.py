"""The guard: a small process that starts one engine, and outlives the script only to end it.

It runs in a session of its own, adopts every orphan of the engine (subreaper), and holds a pipe to the script.
When the pipe closes, because the script ended or was killed, even by -9, the guard ends the engine's whole tree,
removes the shared-memory files its processes had mapped, and exits. Standard library only: it must start at once,
stay small, and never fail on an import.

Input: a line of JSON, `{"command", "env", "log", "scratch"}`, then optionally the lines `ready` and `stop`.
Output, JSON lines: `{"event": "started" | "exited" | "gone", ...}`.

Engines on CPUs are forked, and their guards with them: see importer.py, which runs `guard()` in a fork of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
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

Spec = dict[str, Any]  # the first line of the input


def main() -> None:
    """Guard an engine that is started as a new program."""
    guard(_start)


def guard(start: Callable[[Spec], int], **facts: object) -> None:
    """Start an engine as a child of this process, and end it when it is to end; `facts` are told with its pid."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    adopt_orphans()
    with open(0, "rb", buffering=0, closefd=False) as script:  # unbuffered, for select()
        line = script.readline()
    if not line:
        return
    spec: Spec = json.loads(line)
    engine = Tree(spec, start)
    _tell("started", guard=os.getpid(), pid=engine.pid, **facts)
    deadlines = _watch(engine, lambda: asked)
    if engine.exit_status is not None:
        _tell("exited", returncode=engine.exit_status)
    _tell("gone", **engine.end(deadlines))


def _watch(engine: Tree, asked: Callable[[], bool]) -> tuple[float, float]:
    """Return once the engine has ended or is to end, with the time that it then has."""
    tick_s = STARTING_TICK_S
    while not asked() and engine.note_exit() is None:
        if select.select([0], [], [], tick_s)[0]:
            words = os.read(0, 4096).split()
            if not words or b"stop" in words:
                return PATIENT_S if words else HASTY_S
            if b"ready" in words:
                tick_s = SERVING_TICK_S
        engine.note_shared_memory()
    return PATIENT_S


class Tree:
    """An engine's main process and everything that descends from it."""

    def __init__(self, spec: Spec, start: Callable[[Spec], int]) -> None:
        self.before = set(shared_memory_files())
        self.shared_memory: set[str] = set()
        self.scratch = Path(spec["scratch"])
        self.exit_status: int | None = None
        self.pid = start(spec)

    def note_exit(self) -> int | None:
        """Reap whatever has ended; return the main process' exit status once it has one."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.pid:
                    self.exit_status = os.waitstatus_to_exitcode(status)
        return self.exit_status

    def note_shared_memory(self) -> None:
        """Remember the shared-memory files our processes have mapped or open, and that were not there before us."""
        for pid in descendants(os.getpid()):
            self.shared_memory.update(set(shared_memory_of(pid)) - self.before)

    def end(self, deadlines_s: tuple[float, float]) -> dict[str, Any]:
        """End every process and remove what they left; returns what had to be done, and what is still there."""
        began = time.monotonic()
        self.note_shared_memory()
        to_terminate_s, to_kill_s = deadlines_s
        if self.exit_status is None:
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
            "processes_left": list(descendants(os.getpid())),
        }

    def _signal_all_until_empty(self, number: signal.Signals, deadline_s: float) -> int:
        """Signal every process, again each round for those born meanwhile; returns how many were signalled."""
        signalled: set[int] = set()

        def signal_the_living() -> bool:
            self.note_exit()
            alive = set(descendants(os.getpid()))
            # One TERM each, so that nobody's clean-up is interrupted; KILL as often as it takes.
            send(number, alive if number == signal.SIGKILL else alive - signalled)
            signalled.update(alive)
            return not alive

        self._wait(deadline_s, signal_the_living)
        return len(signalled)

    def _wait_until_empty(self, deadline_s: float) -> None:
        def empty() -> bool:
            self.note_exit()
            return not set(descendants(os.getpid()))

        self._wait(deadline_s, empty)

    @staticmethod
    def _wait(deadline_s: float, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + deadline_s
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)


def _start(spec: Spec) -> int:
    with Path(spec["log"]).open("ab") as output:
        process = subprocess.Popen(
            spec["command"],
            env=spec["env"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_become_an_engine,
        )
    process.returncode = 0  # never waited for through Popen: as a subreaper the guard reaps everything itself
    return process.pid


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
