"""Limits of containers, in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.machine.cgroup import ContainerLimits, container_limits
from tests.machine.fake_linux import FakeLinux


@pytest.fixture
def linux(tmp_path: Path) -> FakeLinux:
    return FakeLinux(tmp_path)


def limits(linux: FakeLinux) -> ContainerLimits:
    return container_limits(linux.cgroup, linux.proc)


def test_no_control_groups_no_limits(linux: FakeLinux) -> None:
    assert limits(linux) == ContainerLimits(None, None)


def test_version_2_inside_a_container(linux: FakeLinux) -> None:
    linux.quota_v2("250000 100000")
    linux.write("cgroup/memory.max", 8 << 30)
    assert limits(linux) == ContainerLimits(2.5, 8 << 30)


def test_version_2_without_limits(linux: FakeLinux) -> None:
    linux.quota_v2("max 100000")
    linux.write("cgroup/memory.max", "max")
    assert limits(linux) == ContainerLimits(None, None)


def test_a_parents_tighter_limit_counts(linux: FakeLinux) -> None:
    linux.quota_v2("400000 100000", "/jobs/job7")
    linux.write("cgroup/jobs/cpu.max", "300000 100000")
    linux.write("cgroup/jobs/memory.max", 4 << 30)
    linux.write("cgroup/other/cpu.max", "100000 100000")
    assert limits(linux) == ContainerLimits(3.0, 4 << 30)


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1_where_the_listing_shows_the_hosts_path(linux: FakeLinux, mount: str) -> None:
    linux.write("proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc")
    linux.write(f"cgroup/{mount}/cpu.cfs_quota_us", 150000)
    linux.write(f"cgroup/{mount}/cpu.cfs_period_us", 100000)
    linux.write("cgroup/memory/memory.limit_in_bytes", 2 << 30)
    assert limits(linux) == ContainerLimits(1.5, 2 << 30)


def test_version_1_writes_no_limit_as_minus_one_and_a_huge_number(linux: FakeLinux) -> None:
    linux.write("proc/self/cgroup", "2:memory:/\n1:cpu:/")
    linux.write("cgroup/cpu/cpu.cfs_quota_us", -1)
    linux.write("cgroup/cpu/cpu.cfs_period_us", 100000)
    linux.write("cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    assert limits(linux) == ContainerLimits(None, None)
