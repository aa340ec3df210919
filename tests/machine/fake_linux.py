"""Builds the parts of /sys and /proc that describe a machine's CPUs, under a test's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.machine.cpus import Cpus, read_cpus


@dataclass(frozen=True)
class FakeCore:
    """One physical core: its logical CPUs, NUMA node and speed."""

    threads: tuple[int, ...]
    node: int = 0
    max_freq_khz: int | None = None
    capacity: int | None = None


@dataclass(frozen=True)
class FakeLinux:
    """A machine under `root`; without cgroup files there are no limits."""

    root: Path

    @property
    def cgroup(self) -> Path:
        return self.root / "cgroup"

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def add_cores(self, cores: Sequence[FakeCore]) -> None:
        for core_id, core in enumerate(cores):
            for cpu in core.threads:
                folder = f"devices/system/cpu/cpu{cpu}"
                self.write(f"{folder}/topology/core_cpus_list", ",".join(map(str, core.threads)))
                self.write(f"{folder}/topology/core_id", core_id)
                self.write(f"{folder}/topology/physical_package_id", core.node)
                (self.root / folder / f"node{core.node}").mkdir()
                if core.max_freq_khz is not None:
                    self.write(f"{folder}/cpufreq/cpuinfo_max_freq", core.max_freq_khz)
                if core.capacity is not None:
                    self.write(f"{folder}/cpu_capacity", core.capacity)

    def quota_v2(self, text: str, path: str = "/") -> None:
        self.write("proc/self/cgroup", f"0::{path}")
        self.write(f"cgroup/{path.strip('/')}/cpu.max", text)

    def read(self, affinity: Sequence[int]) -> Cpus:
        return read_cpus(self.root / "devices", self.cgroup, self.proc, affinity)
