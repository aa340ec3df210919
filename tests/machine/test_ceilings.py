"""The machine's own ceiling, measured for real with short turns."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.machine import ceilings
from common.machine.ceilings import Ceilings, measure_ceilings
from common.machine.cpus import read_cpus
from common.machine.devices import Device, Machine, cpu_machine, gpu_machine
from tests.machine.replay import A100, Replay

pytestmark = pytest.mark.timing


def test_scaling_is_all_over_one() -> None:
    measured = Ceilings(100e9, 190e9, 20e9, 30e9, devices=2, seconds=3.0)
    assert measured.matrix_scaling == pytest.approx(1.9)
    assert measured.memory_scaling == pytest.approx(1.5)


def test_gpus_are_not_measured_yet() -> None:
    assert measure_ceilings(gpu_machine(Replay(A100))) is None


@pytest.mark.slow
def test_this_machine_gives_plausible_rates() -> None:
    machine = cpu_machine(read_cpus())
    measured = measure_ceilings(machine, turn_s=0.03)
    assert measured is not None
    assert measured.devices == len(machine.devices)
    assert 1e9 < measured.matrix_flops_one < 1e14
    assert 1e8 < measured.memory_bytes_per_s_one < 1e13
    # wide, because the machine that runs the tests may be busy with other things
    assert 0.3 < measured.matrix_scaling < 1.7 * measured.devices
    assert 0.3 < measured.memory_scaling < 1.7 * measured.devices
    assert measured.matrix_scaling_range is not None
    low, high = measured.matrix_scaling_range
    assert 0 < low <= high
    assert measured.seconds < 30


def test_rates_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.5, 1.0, 1.5])
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: next(ticks))  # type: ignore[attr-defined]
    assert ceilings._rate(lambda: None, amount=6.0, turn_s=1.2) == pytest.approx(3 * 6.0 / 1.5)


def test_arrays_outgrow_the_cache_but_not_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "last_level_cache_bytes", lambda cpu: 256 << 20)
    assert ceilings._array_bytes([0], 8 << 30) == 1 << 30
    assert ceilings._array_bytes([0, 1], 8 << 30) == 512 << 20
    assert ceilings._array_bytes([0, 1], 200 << 20) == 100 << 20
    monkeypatch.setattr(ceilings, "last_level_cache_bytes", lambda cpu: None)
    assert ceilings._array_bytes([0], 8 << 30) == 256 << 20


def test_one_cores_products_are_right() -> None:
    with ThreadPoolExecutor(1) as thread:  # it pins the thread it runs in, which must not be the tests' own
        load = thread.submit(ceilings._CoreLoad, read_cpus().cores[0].cpu, 1 << 20).result()
    assert np.all(load._product == ceilings.MATRIX_SIZE)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are pinned on Linux only")
def test_a_worker_that_dies_says_why() -> None:
    nowhere = Machine("cpu", (Device(0, "cpu", "no such core", cores=(100_000,)),), host_shares_devices=True)
    with pytest.raises(RuntimeError, match=r"ceilings could not be measured: .*(Error|argument)"):
        measure_ceilings(nowhere)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are pinned on Linux only")
def test_a_thread_that_dies_ends_its_worker() -> None:
    first = [read_cpus().cores[0].cpu]
    with ceilings._Worker(first, share_bytes=-(1 << 40)) as worker, pytest.raises(RuntimeError, match="ValueError"):
        worker.wait_until_ready()
