"""The physical cores this process may use, and how they are cut into equal slices."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.core.plural import plural
from common.machine.cgroup import CGROUP_ROOT, PROC_ROOT, container_limits

SYSFS_ROOT = Path("/sys/devices")

# Turbo and "preferred core" ranks differ by up to a tenth between cores of one kind; efficiency cores reach 84 % of
# their neighbours' clock at most (Core Ultra 7 265K: 4.6 of 5.5 GHz).
_SAME_KIND = 0.85


@dataclass(frozen=True)
class Core:
    """One physical core, stood for by its lowest usable logical CPU."""

    cpu: int
    node: int  # NUMA node
    speed: float | None = None  # capacity or maximum clock, in whatever unit the kernel gives for all cores


@dataclass(frozen=True)
class Cpus:
    """What this process may use: cores of the fastest kind, slower ones, and the container's quota."""

    model: str
    cores: tuple[Core, ...]
    slower: tuple[Core, ...] = ()
    quota_cores: int | None = None  # whole cores; `None` without a quota

    @property
    def usable(self) -> int:
        """How many fast cores may be busy at the same time."""
        return len(self.cores) if self.quota_cores is None else min(len(self.cores), self.quota_cores)

    def left_over(self, used: Collection[int]) -> tuple[int, ...]:
        """Logical CPUs of cores that are not in `used`, as far as the quota has a whole core left for them."""
        if self.quota_cores is not None and self.quota_cores <= len(used):
            return ()
        return tuple(core.cpu for core in self.cores + self.slower if core.cpu not in used)


def read_cpus(
    sysfs: Path = SYSFS_ROOT,
    cgroup: Path = CGROUP_ROOT,
    proc: Path = PROC_ROOT,
    affinity: Collection[int] | None = None,
) -> Cpus:
    """The cores of this process's affinity mask.

    Off Linux, where processes cannot be pinned from Python, logical ids 0..n-1 stand for the n physical cores.
    """
    if affinity is None and sys.platform == "linux":
        affinity = os.sched_getaffinity(0)
    if affinity is None:
        count = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
        return Cpus(cpu_model(proc), tuple(Core(cpu, 0) for cpu in range(count)))
    fast, slower = _by_kind(_physical_cores(sysfs, affinity), sysfs)
    quota = container_limits(cgroup, proc).cpus
    # Less than one CPU still has to run somewhere: it is one slow device.
    return Cpus(cpu_model(proc), fast, slower, None if quota is None else max(1, int(quota)))


def slices(cores_per_device: int | None = None, cpus: Cpus | None = None) -> list[tuple[int, ...]]:
    """Equal slices of whole cores, as logical CPU ids; inside one NUMA node wherever that is possible.

    Without `cores_per_device` there are four slices, two where four do not fit, or one, as large as fit.

    Raises:
        ValueError: not a number of cores that fits; the message names those that do.
    """
    cpus = cpus or read_cpus()
    nodes = _nodes(cpus.cores)
    if cores_per_device is None:
        count, size = _default_cut([len(node) for node in nodes], cpus.usable)
    elif 1 <= cores_per_device <= cpus.usable:
        count, size = cpus.usable // cores_per_device, cores_per_device
    else:
        legal = "1" if cpus.usable == 1 else f"1 to {cpus.usable}"
        raise ValueError(
            f"--cores-per-device {cores_per_device} does not fit: this process may use"
            f" {plural(cpus.usable, 'physical core')}; give {legal}"
        )
    return _cut(nodes, count, size)


def _default_cut(node_sizes: Sequence[int], usable: int) -> tuple[int, int]:
    """Number and size of slices: the most of 4, 2 and 1 devices, then the largest size that keeps inside nodes."""
    count = next(devices for devices in (4, 2, 1) if devices <= usable)
    sizes = [size for size in range(1, usable // count + 1) if sum(node // size for node in node_sizes) >= count]
    return count, max(sizes)


def _cut(nodes: Sequence[Sequence[int]], count: int, size: int) -> list[tuple[int, ...]]:
    """Slices from inside the nodes first, then from what the nodes have left over together."""
    whole: list[tuple[int, ...]] = []
    rest: list[int] = []
    for node in nodes:
        inside = len(node) // size * size
        whole += [tuple(node[start : start + size]) for start in range(0, inside, size)]
        rest += node[inside:]
    whole += [tuple(rest[start : start + size]) for start in range(0, len(rest) // size * size, size)]
    return whole[:count]


def _nodes(cores: Sequence[Core]) -> list[list[int]]:
    nodes: dict[int, list[int]] = defaultdict(list)
    for core in sorted(cores, key=lambda core: core.cpu):
        nodes[core.node].append(core.cpu)
    return [nodes[node] for node in sorted(nodes)]


def _physical_cores(sysfs: Path, affinity: Collection[int]) -> list[Core]:
    """One entry per physical core; hyper-thread siblings fall together."""
    found: dict[str, Core] = {}
    for cpu in sorted(affinity):
        folder = sysfs / "system" / "cpu" / f"cpu{cpu}"
        topology = folder / "topology"
        siblings = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")
        package, core_id = _text(topology / "physical_package_id"), _text(topology / "core_id")
        key = siblings or (f"{package}/{core_id}" if core_id else f"cpu{cpu}")
        node = next((int(path.name[4:]) for path in folder.glob("node[0-9]*")), 0)
        speed = _text(folder / "cpu_capacity") or _text(folder / "cpufreq" / "cpuinfo_max_freq")
        found.setdefault(key, Core(cpu, node, float(speed) if speed else None))
    return list(found.values())


def _by_kind(cores: Sequence[Core], sysfs: Path) -> tuple[tuple[Core, ...], tuple[Core, ...]]:
    """Cores of the fastest kind, and the others."""
    performance = _cpu_list(_text(sysfs / "cpu_core" / "cpus"))  # Intel hybrids name their kinds
    if not any(core.cpu in performance for core in cores):
        fastest = max((core.speed for core in cores if core.speed is not None), default=0.0)
        performance = {core.cpu for core in cores if core.speed is None or core.speed >= _SAME_KIND * fastest}
    fast = tuple(core for core in cores if core.cpu in performance)
    return fast, tuple(core for core in cores if core.cpu not in performance)


def _cpu_list(text: str | None) -> set[int]:
    """The kernel's list format: `0-3,8` is {0, 1, 2, 3, 8}."""
    cpus: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.strip():
            cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def cpu_model(proc: Path = PROC_ROOT) -> str:
    """The processor's marketing name, or its architecture where the system does not tell."""
    for line in (_text(proc / "cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "Apple"
    return platform.processor() or platform.machine()


def online_cpus(sysfs: Path = SYSFS_ROOT) -> list[int]:
    """Logical ids of all CPUs that are switched on, ascending; empty where the system does not tell."""
    return sorted(_cpu_list(_text(sysfs / "system" / "cpu" / "online")))


def last_level_cache_bytes(cpu: int, sysfs: Path = SYSFS_ROOT) -> int | None:
    """Size of the largest cache that logical CPU `cpu` reaches; `None` where the system does not tell."""
    sizes = (_text(file) for file in (sysfs / "system" / "cpu" / f"cpu{cpu}" / "cache").glob("index*/size"))
    return max((int(size.removesuffix("K")) * 1024 for size in sizes if size and size.endswith("K")), default=None)


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except OSError:
        return None
