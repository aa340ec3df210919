"""What the kernel knows of a tree of processes: who is in it, what shared memory it holds. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SHARED_MEMORY = "/dev/shm/"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def end_with_parent() -> None:
    """Have this process terminated once its parent has ended, however that ended."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def nice_session(niceness: int) -> None:
    """Give this process' session a niceness, where the kernel shares cores out by session (sched(7), autogroup).

    There that of a process counts within its own session alone, and a session begins with 0.
    """
    for _ in range(20):
        try:
            Path("/proc/self/autogroup").write_text(str(niceness))
        except BlockingIOError:  # who is not root may do so ten times a second, all on the machine together
            time.sleep(0.1)
        except OSError:  # another kernel
            return
        else:
            return


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Signal whoever is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(root: int) -> Iterator[int]:
    """Every living descendant; zombies are left out, since only their parent's reaping is still to come.

    A main thread is a zombie before the other threads of its process have ended; files and ports are theirs till then.
    """
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name, which may hold spaces and brackets) state ppid ..."
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX" or len(os.listdir(f"{entry.path}/task")) > 1:  # noqa: PTH208  # names are enough
                    children.setdefault(int(parent), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        born = children.get(waiting.pop(), [])
        yield from born
        waiting += born


def shared_memory_files() -> Iterator[str]:
    """Paths of all files in /dev/shm."""
    with contextlib.suppress(OSError):
        yield from (entry.path for entry in os.scandir(SHARED_MEMORY))


def shared_memory_of(pid: int) -> Iterator[str]:
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
