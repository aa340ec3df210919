"""Memory of a process, of shared memory, and how many files may be open."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of RAM; `None` where the process is gone or may not be looked into.

    `rss` counts pages shared with other processes in full, so ranks that share memory must be compared by `uss`,
    what would be freed if this process alone ended.
    """

    rss_bytes: int | None
    uss_bytes: int | None


@dataclass(frozen=True)
class SharedMemory:
    """Size of the shared-memory file system, through which ranks of one engine talk."""

    total_bytes: int
    free_bytes: int


def available_bytes() -> int:
    """RAM that can still be had without swapping."""
    return int(psutil.virtual_memory().available)


def resident_bytes(pid: int) -> MemoryUse:
    """What process `pid` holds now."""
    try:
        process = psutil.Process(pid)
        rss_bytes = process.memory_info().rss
    except psutil.Error:
        return MemoryUse(None, None)
    try:
        return MemoryUse(rss_bytes, process.memory_full_info().uss)
    except psutil.Error:
        return MemoryUse(rss_bytes, None)


def shm_size_bytes(mount: Path = Path("/dev/shm")) -> SharedMemory | None:
    """Size of /dev/shm and what is free of it; `None` where there is none (macOS, Windows)."""
    try:
        usage = psutil.disk_usage(str(mount))
    except OSError:
        return None
    return SharedMemory(usage.total, usage.free)


def open_files_limit() -> int | None:
    """How many files, and so connections, this process may open; `None` for no limit (or Windows, which has none)."""
    if sys.platform == "win32":
        return None
    import resource  # does not exist on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
