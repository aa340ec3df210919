"""The guard: a small process that starts one engine and outlives the script only to end it.

It runs in a session of its own, adopts every orphan of the engine (subreaper), and holds a pipe to the script.
When the pipe closes, because the script ended or was killed, even by -9, the guard ends the engine's whole tree,
removes the shared-memory files its processes had mapped, and exits. Standard library only: it must start at once,
stay small, and never fail on an import.

Input, one line each: a JSON `{"command", "env", "log", "scratch"}`, then optionally `ready` and `stop`.
Output, JSON lines: `{"event": "started" | "exited" | "gone", ...}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHARED_MEMORY = "/dev/shm/"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
PATIENT_S = (15.0, 2.0)  # from SIGINT to SIGTERM, from SIGTERM to SIGKILL: a stop that was asked for
HASTY_S = (2.0, 1.0)  # the script is gone: nobody waits for a graceful end
ORPHANS_S = 1.0  # once the main process has ended, whoever is left has this long to follow it
# Ranks on CPUs spin while they wait for each other. The client, which takes a hundredth of a core, must not stand in
# line behind them: where they share cores its stamps would be late by whole time slices.
ENGINE_NICENESS = 5
STARTING_TICK_S, SERVING_TICK_S = 0.5, 5.0  # how often shared memory is noted; rarely once requests are timed


def main() -> None:
    """Run one engine to its end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    with open(0, "rb", buffering=0, closefd=False) as script:  # unbuffered, for select() below
        spec = json.loads(script.readline())
    engine = Tree(spec)
    _tell("started", pid=engine.pid)
    tick_s = STARTING_TICK_S
    deadlines = PATIENT_S
    while not asked and engine.note_exit() is None:
        readable, _, _ = select.select([0], [], [], tick_s)
        words = os.read(0, 4096).split() if readable else [b""]
        if not words or b"stop" in words:
            deadlines = PATIENT_S if words else HASTY_S
            break
        if b"ready" in words:
            tick_s = SERVING_TICK_S
        engine.note_shared_memory()
    if engine.exit_status is not None:
        _tell("exited", returncode=engine.exit_status)
    _tell("gone", **engine.end(deadlines))


class Tree:
    """The engine's main process and everything that descends from it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.before = set(_shared_memory_files())
        self.shared_memory: set[str] = set()
        self.scratch = Path(spec["scratch"])
        self.exit_status: int | None = None
        with Path(spec["log"]).open("ab") as log:
            # Not subprocess' wait(): as a subreaper this process reaps everything itself.
            self.process = subprocess.Popen(
                spec["command"],
                env=spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_become_an_engine,
            )
        self.pid = self.process.pid

    def note_exit(self) -> int | None:
        """Reap whatever has ended; return the main process' exit status once it has one."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.pid:
                    self.exit_status = os.waitstatus_to_exitcode(status)
                    self.process.returncode = self.exit_status
        return self.exit_status

    def note_shared_memory(self) -> None:
        """Remember the shared-memory files our processes have mapped or open, and that were not there before us."""
        for pid in _descendants(os.getpid()):
            self.shared_memory.update(set(_shared_memory_of(pid)) - self.before)

    def end(self, deadlines_s: tuple[float, float]) -> dict[str, Any]:
        """End every process and remove what they left; returns what had to be done, and what is still there."""
        began = time.monotonic()
        self.note_shared_memory()
        to_terminate_s, to_kill_s = deadlines_s
        if self.exit_status is None:
            _signal([self.pid], signal.SIGINT)
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
            "processes_left": list(_descendants(os.getpid())),
        }

    def _signal_all_until_empty(self, number: signal.Signals, deadline_s: float) -> int:
        """Signal every descendant, again each round for those born meanwhile; returns how many were signalled."""
        signalled: set[int] = set()

        def signal_the_living() -> bool:
            self.note_exit()
            alive = set(_descendants(os.getpid()))
            # One TERM each, so that nobody's clean-up is interrupted; KILL as often as it takes.
            _signal(alive if number == signal.SIGKILL else alive - signalled, number)
            signalled.update(alive)
            return not alive

        self._wait(deadline_s, signal_the_living)
        return len(signalled)

    def _wait_until_empty(self, deadline_s: float) -> None:
        def empty() -> bool:
            self.note_exit()
            return not any(_descendants(os.getpid()))

        self._wait(deadline_s, empty)

    @staticmethod
    def _wait(deadline_s: float, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + deadline_s
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)


def _become_an_engine() -> None:
    """Between fork and exec: what the guard ignores an engine must hear, and it must not outlive a killed guard."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.nice(ENGINE_NICENESS)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _tell(event: str, **facts: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _signal(pids: set[int] | list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _descendants(root: int) -> Iterator[int]:
    """Every living descendant; zombies are left out, since only their parent's reaping is still to come."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name, which may hold spaces and brackets) state ppid ..."
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        born = children.get(waiting.pop(), [])
        yield from born
        waiting += born


def _shared_memory_files() -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (entry.path for entry in os.scandir(SHARED_MEMORY))


def _shared_memory_of(pid: int) -> Iterator[str]:
    """Files in /dev/shm that a process has mapped or open, found by inode.

    Not by name: a POSIX semaphore is mapped under a temporary name before it gets its own.
    """
    inodes: set[int] = set()
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as maps:  # noqa: PTH123  # read line by line, often
        inodes.update(int(line.split(maxsplit=5)[4]) for line in maps if SHARED_MEMORY in line)
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if str(Path(entry.path).readlink()).startswith(SHARED_MEMORY):
                    inodes.add(entry.stat().st_ino)
    with contextlib.suppress(OSError):
        yield from (entry.path for entry in os.scandir(SHARED_MEMORY) if inodes and entry.inode() in inodes)


if __name__ == "__main__":
    main()
