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
    nice_session,
    send,
    shared_memory_files,
    shared_memory_of,
)

TO_TERMINATE_S, TO_KILL_S = 15.0, 2.0  # from SIGINT to SIGTERM, from SIGTERM to SIGKILL: a stop that was asked for
FREEZE_S, KILL_S = 2.0, 10.0  # as long as this, if processes cannot be stopped or ended sooner
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
    somebody_waits = _watch(engine, lambda: asked)
    began = time.monotonic()
    if engine.exit_status is not None:
        _tell("exited", returncode=engine.exit_status)
    if somebody_waits:
        engine.end_gently()
    left = engine.end()
    _tell("gone", seconds=round(time.monotonic() - began, 3), **left)


def _watch(engine: Tree, asked: Callable[[], bool]) -> bool:
    """Return once the engine has ended or is to end; whether the script is still there."""
    tick_s = STARTING_TICK_S
    while not asked() and engine.note_exit() is None:
        if select.select([0], [], [], tick_s)[0]:
            words = os.read(0, 4096).split()
            if not words or b"stop" in words:
                return bool(words)
            if b"ready" in words:
                tick_s = SERVING_TICK_S
        engine.note_shared_memory()
    return True


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

    def end_gently(self) -> None:
        """Ask the main process to end, then whoever is left of its tree."""
        if self.exit_status is None:
            send(signal.SIGINT, [self.pid])
            self._wait(TO_TERMINATE_S, lambda: self.exit_status is not None)
        self._wait(ORPHANS_S, lambda: not self._alive())
        asked: set[int] = set()

        def ask_each_once() -> bool:  # so that nobody's clean-up is interrupted
            alive = self._alive()
            send(signal.SIGTERM, alive - asked)
            asked.update(alive)
            return not alive

        self._wait(TO_KILL_S, ask_each_once)

    def end(self) -> dict[str, Any]:
        """End every process and remove what they left; returns what had to be done, and what is still there.

        They are frozen first: whoever still runs could make a file in the moment between the last look and its end.
        """
        killed: set[int] = set()

        def freeze() -> bool:
            new = self._alive() - killed
            send(signal.SIGSTOP, new)
            killed.update(new)
            return not new

        def kill() -> bool:
            alive = self._alive()
            send(signal.SIGKILL, alive)
            return not alive

        self._wait(FREEZE_S, freeze)
        self.note_shared_memory()
        self._wait(KILL_S, kill)
        removed = [name for name in sorted(self.shared_memory) if _remove(Path(name))]
        shutil.rmtree(self.scratch, ignore_errors=True)
        return {
            "killed": len(killed),
            "shared_memory_removed": removed,
            "shared_memory_left": [name for name in self.shared_memory if Path(name).exists()],
            "processes_left": sorted(self._alive()),
        }

    def _alive(self) -> set[int]:
        """All that descend from this guard, once what has ended is reaped."""
        self.note_exit()
        return set(descendants(os.getpid()))

    def _wait(self, deadline_s: float, done: Callable[[], bool]) -> None:
        """Until it is done or the deadline is over; an engine that is told to end may still be making files."""
        deadline = time.monotonic() + deadline_s
        while not done() and time.monotonic() < deadline:
            self.note_shared_memory()
            time.sleep(0.02)
            self.note_exit()


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
    nice_session(ENGINE_NICENESS)
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
