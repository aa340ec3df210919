"""Physical cores and slices, on made-up machines whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.machine.cpus import Core, Cpus, cpu_model, last_level_cache_bytes, online_cpus, read_cpus, slices
from tests.machine.fake_linux import FakeCore, FakeLinux


@pytest.fixture
def linux(tmp_path: Path) -> FakeLinux:
    return FakeLinux(tmp_path)


def plain(count: int, quota_cores: int | None = None) -> Cpus:
    return Cpus("Test CPU", tuple(Core(cpu, 0) for cpu in range(count)), quota_cores=quota_cores)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(0,)]),
        (2, [(0,), (1,)]),
        (3, [(0,), (1,)]),
        (4, [(0,), (1,), (2,), (3,)]),
        (8, [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (9, [(0, 1), (2, 3), (4, 5), (6, 7)]),
    ],
)
def test_default_slices_are_the_most_of_four_two_one(cores: int, expected: list[tuple[int, ...]]) -> None:
    assert slices(None, plain(cores)) == expected


def test_a_given_size_makes_as_many_slices_as_fit() -> None:
    assert slices(1, plain(6)) == [(0,), (1,), (2,), (3,), (4,), (5,)]
    assert slices(3, plain(8)) == [(0, 1, 2), (3, 4, 5)]
    assert slices(8, plain(8)) == [tuple(range(8))]


@pytest.mark.parametrize("size", [0, -1, 9])
def test_an_impossible_size_names_the_possible_ones(size: int) -> None:
    with pytest.raises(ValueError, match=rf"--cores-per-device {size} .* 8 physical cores; give 1 to 8"):
        slices(size, plain(8))


def test_laptop_with_hyper_threads_uses_each_core_once(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((core, core + 4)) for core in range(4)])
    cpus = linux.read(range(8))
    assert [core.cpu for core in cpus.cores] == [0, 1, 2, 3]
    assert slices(2, cpus) == [(0, 1), (2, 3)]


def test_neighbouring_siblings_are_not_two_cores(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((0, 1)), FakeCore((2, 3))])
    assert slices(None, linux.read(range(4))) == [(0,), (2,)]


def test_old_kernels_name_siblings_only_by_core_and_package(linux: FakeLinux) -> None:
    for cpu in range(4):
        linux.write(f"devices/system/cpu/cpu{cpu}/topology/core_id", cpu % 2)
        linux.write(f"devices/system/cpu/cpu{cpu}/topology/physical_package_id", 0)
    assert [core.cpu for core in linux.read(range(4)).cores] == [0, 1]


def test_without_any_topology_each_cpu_is_a_core(linux: FakeLinux) -> None:
    assert [core.cpu for core in linux.read([3, 1]).cores] == [1, 3]


def test_the_affinity_mask_is_respected(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((core, core + 4)) for core in range(4)])
    cpus = linux.read([2, 3, 6, 7])
    assert slices(None, cpus) == [(2,), (3,)]
    assert [core.cpu for core in linux.read([5, 6]).cores] == [5, 6]


@pytest.mark.parametrize("by", ["frequency", "capacity", "named"])
def test_hybrid_uses_performance_cores_and_leaves_the_others_to_the_host(linux: FakeLinux, by: str) -> None:
    fast = [FakeCore((2 * core, 2 * core + 1)) for core in range(4)]
    slow = [FakeCore((cpu,)) for cpu in range(8, 12)]
    if by == "frequency":  # two favoured cores turbo a little higher and are no kind of their own
        freqs = [5_200_000, 5_200_000, 5_000_000, 5_000_000]
        fast = [FakeCore(core.threads, 0, freq) for core, freq in zip(fast, freqs, strict=True)]
        slow = [FakeCore(core.threads, 0, 3_900_000) for core in slow]
    if by == "capacity":
        fast = [FakeCore(core.threads, 0, None, 1024) for core in fast]
        slow = [FakeCore(core.threads, 0, None, 446) for core in slow]
    if by == "named":
        linux.write("devices/cpu_core/cpus", "0-7")
        linux.write("devices/cpu_atom/cpus", "8-11")
    linux.add_cores(fast + slow)
    cpus = linux.read(range(12))
    cut = slices(None, cpus)
    assert cut == [(0,), (2,), (4,), (6,)]
    assert cpus.left_over({cpu for cores in cut for cpu in cores}) == (8, 9, 10, 11)


def test_only_efficiency_cores_allowed(linux: FakeLinux) -> None:
    linux.write("devices/cpu_core/cpus", "0-3")
    linux.add_cores([FakeCore((cpu,)) for cpu in range(8)])
    assert slices(None, linux.read(range(4, 8))) == [(4,), (5,), (6,), (7,)]


def test_slices_stay_inside_numa_nodes_where_they_can(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((cpu,), node=cpu % 2) for cpu in range(10)])
    cpus = linux.read(range(10))
    assert slices(None, cpus) == [(0, 2), (4, 6), (1, 3), (5, 7)]
    assert slices(3, cpus) == [(0, 2, 4), (1, 3, 5), (6, 8, 7)]  # the third one cannot
    assert slices(6, cpus) == [(0, 2, 4, 6, 8, 1)]


def test_the_default_size_is_one_that_fits_into_nodes() -> None:
    three_nodes = Cpus("Test CPU", tuple(Core(cpu, cpu // 4) for cpu in range(12)))
    assert slices(None, three_nodes) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    two_nodes = Cpus("Test CPU", tuple(Core(cpu, cpu // 8) for cpu in range(16)), quota_cores=12)
    assert slices(None, two_nodes) == [(0, 1, 2), (3, 4, 5), (8, 9, 10), (11, 12, 13)]


def test_container_quota_is_floored_to_whole_cores(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((core, core + 8)) for core in range(8)])
    linux.quota_v2("250000 100000")
    cpus = linux.read(range(16))
    assert cpus.quota_cores == 2
    assert slices(None, cpus) == [(0,), (1,)]
    assert cpus.left_over({0, 1}) == ()
    assert cpus.left_over({0}) == (1, 2, 3, 4, 5, 6, 7)
    with pytest.raises(ValueError, match="give 1 to 2"):
        slices(3, cpus)


def test_less_than_one_cpu_is_one_device(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((0,)), FakeCore((1,))])
    linux.quota_v2("50000 100000")
    assert slices(None, linux.read([0, 1])) == [(0,)]


def test_one_core(linux: FakeLinux) -> None:
    linux.add_cores([FakeCore((0, 1))])
    cpus = linux.read([0, 1])
    assert slices(None, cpus) == [(0,)]
    assert cpus.left_over({0}) == ()
    with pytest.raises(ValueError, match=r"1 physical core; give 1$"):
        slices(2, cpus)


def test_model_name_cache_and_online_cpus(linux: FakeLinux) -> None:
    linux.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 9654 96-Core Processor\nflags\t: fpu")
    for index, size in enumerate(["32K", "32K", "1024K", "32768K"]):
        linux.write(f"devices/system/cpu/cpu0/cache/index{index}/size", size)
    linux.write("devices/system/cpu/online", "0-2,8,10-11")
    assert cpu_model(linux.proc) == "AMD EPYC 9654 96-Core Processor"
    assert last_level_cache_bytes(0, linux.root / "devices") == 32 << 20
    assert last_level_cache_bytes(1, linux.root / "devices") is None
    assert online_cpus(linux.root / "devices") == [0, 1, 2, 8, 10, 11]
    assert online_cpus(linux.root) == []


def test_without_pinning_the_cores_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 16 if logical else 8)
    assert [core.cpu for core in read_cpus().cores] == list(range(8))
