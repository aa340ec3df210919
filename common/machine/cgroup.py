"""What a container allows: the CPU quota and the memory limit of this process's control groups, version 2 or 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_ROOT = Path("/proc")
_UNLIMITED_BYTES = 1 << 60  # version 1 writes "no limit" as a number just below 2**63


@dataclass(frozen=True)
class ContainerLimits:
    """`None` means no limit, or none that can be read."""

    cpus: float | None = None  # CPU seconds per second
    memory_bytes: int | None = None


def container_limits(cgroup: Path = CGROUP_ROOT, proc: Path = PROC_ROOT) -> ContainerLimits:
    """The tightest limits on the way from this process's group up to the root; empty off Linux."""
    quotas: list[float] = []
    limits: list[int] = []
    for controllers, path in _memberships(proc / "self" / "cgroup"):
        if not controllers:
            for mount in (cgroup, cgroup / "unified"):
                for folder in _upwards(mount, path):
                    quotas += _quota_v2(folder / "cpu.max")
                    limits += _number(folder / "memory.max")
        if "cpu" in controllers:
            for folder in _controller_folders(cgroup, controllers, "cpu", path):
                quotas += _quota_v1(folder)
        if "memory" in controllers:
            for folder in _controller_folders(cgroup, controllers, "memory", path):
                limits += _number(folder / "memory.limit_in_bytes")
    limits = [limit for limit in limits if limit < _UNLIMITED_BYTES]
    return ContainerLimits(min(quotas, default=None), min(limits, default=None))


def _memberships(listing: Path) -> Iterator[tuple[list[str], str]]:
    """Lines of `/proc/self/cgroup`, `id:controllers:path`; version 2 names no controllers."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        yield [name for name in controllers.split(",") if name], path


def _controller_folders(cgroup: Path, controllers: list[str], name: str, path: str) -> Iterator[Path]:
    """Version 1 mounts `cpu` under that name, under the joint name `cpu,cpuacct`, or under both."""
    for mount in {name, ",".join(controllers)}:
        yield from _upwards(cgroup / mount, path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and its parents up to the mount, whose own limit is the container's.

    Without a group name space the path is the host's and does not exist inside; reading then finds nothing there.
    """
    folder = mount / path.strip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _quota_v2(file: Path) -> list[float]:
    try:
        quota, period = file.read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    except (OSError, ValueError):
        return []


def _quota_v1(folder: Path) -> list[float]:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return [quota[0] / period[0]] if quota and period and quota[0] > 0 and period[0] > 0 else []


def _number(file: Path) -> list[int]:
    """The file's number; nothing for a missing file or `max`."""
    try:
        return [int(file.read_text())]
    except (OSError, ValueError):
        return []
