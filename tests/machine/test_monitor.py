"""Summaries of samples with known truth, and the sampling thread on this machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

import pynvml
import pytest

from common.machine.cpus import Core, Cpus
from common.machine.devices import Machine, cpu_machine, gpu_machine
from common.machine.monitor import Monitor
from common.machine.samples import Sample
from tests.machine.replay import A100, L4, Replay

S = 1_000_000_000
TWO_SLICES = cpu_machine(Cpus("Test CPU", (Core(0, 0), Core(1, 0))))


def monitor_with(samples: Iterable[Sample], machine: Machine = TWO_SLICES) -> Monitor:
    """A monitor that has ended with these samples."""
    monitor = Monitor(machine)
    monitor.samples = list(samples)
    monitor._stop.set()
    return monitor


def power(at_s: float, watts: float) -> Sample:
    return Sample(int(at_s * S), {"gpu0_power_w": watts})


def test_without_samples_everything_is_absent() -> None:
    assert monitor_with([]).summary(0, S) == {}


def test_gauges_in_the_window_only() -> None:
    readings = [(1, 900.0), (2, 10.0), (3, 30.0), (4, 900.0)]
    found = monitor_with(
        Sample(at_s * S, {"gpu0_memory_used_bytes": value, "memory_available_bytes": value}) for at_s, value in readings
    ).summary(2 * S, 3 * S)
    assert found == {
        "gpu0_memory_used_bytes_mean": 20.0,
        "gpu0_memory_used_bytes_max": 30.0,
        "memory_available_bytes_mean": 20.0,
        "memory_available_bytes_min": 10.0,
    }


def test_energy_from_the_boards_counter_is_interpolated_to_the_window() -> None:
    samples = [
        Sample(at_s * S, {"gpu0_power_w": 999.0}, {"gpu0_energy_j": energy_j})
        for at_s, energy_j in [(0, 1000.0), (1, 1100.0), (2, 1300.0)]
    ]
    found = monitor_with(samples).summary(int(0.5 * S), int(1.5 * S))
    assert found["gpu0_energy_j"] == pytest.approx(50 + 100)


def test_energy_from_power_by_trapezoids() -> None:
    ramp = monitor_with([power(0, 100), power(1, 200), power(2, 200)])
    assert ramp.summary(0, 2 * S)["gpu0_energy_j"] == pytest.approx(150 + 200)
    assert ramp.summary(int(0.5 * S), S)["gpu0_energy_j"] == pytest.approx(87.5)


def test_energy_is_absent_across_a_long_gap_but_not_beside_it() -> None:
    holey = monitor_with([power(0, 100), power(1, 100), power(4.5, 100), power(5.5, 100)])
    assert "gpu0_energy_j" not in holey.summary(0, 5 * S)
    assert holey.summary(0, S)["gpu0_energy_j"] == pytest.approx(100)
    assert holey.summary(int(4.5 * S), int(5.5 * S))["gpu0_energy_j"] == pytest.approx(100)


def test_energy_is_absent_when_the_window_lies_outside_or_the_counter_was_reset() -> None:
    assert "gpu0_energy_j" not in monitor_with([power(0, 100), power(1, 100)]).summary(0, 5 * S)
    assert "gpu0_energy_j" not in monitor_with([power(0, 100)]).summary(0, S)
    reset = [Sample(at * S, {}, {"gpu0_energy_j": value}) for at, value in [(0, 50.0), (1, 60.0), (2, 5.0)]]
    assert "gpu0_energy_j" not in monitor_with(reset).summary(0, 2 * S)


def test_utilisation_is_the_growth_of_busy_seconds() -> None:
    busy = [(0, 10.0, 0.0), (1, 11.0, 0.0), (2, 11.5, 0.25), (3, 12.5, 0.25)]
    samples = [Sample(at * S, {}, {"cpu0_busy_s": one, "cpu1_busy_s": two}) for at, one, two in busy]
    found = monitor_with(samples).summary(0, 2 * S)
    assert found == {
        "cpu_utilisation_mean": pytest.approx((0.75 + 0.125) / 2),
        "cpu0_utilisation_mean": pytest.approx(0.75),
        "cpu1_utilisation_mean": pytest.approx(0.125),
        "busiest_cpu_utilisation_mean": pytest.approx(0.75),
        "busiest_cpu_utilisation_max": pytest.approx(1.0),
    }


def test_gpus_are_read_in_si_units() -> None:
    nvml = Replay(A100)
    machine = gpu_machine(nvml, device_ids=[1, 3])
    with Monitor(machine, interval_s=0.02, nvml=nvml) as monitor:
        begin = time.perf_counter_ns()
        time.sleep(0.1)
        found = monitor.summary(begin, time.perf_counter_ns())
    assert found["gpu1_utilisation_mean"] == 0.5
    assert found["gpu3_power_w_max"] == 200.0
    assert found["gpu1_sm_clock_hz_mean"] == 210e6
    assert found["gpu1_temperature_c_max"] == 40.0
    assert found["gpu1_memory_used_bytes_max"] == 4 << 20
    assert (found["gpu1_throttled_power_cap_mean"], found["gpu1_throttled_thermal_mean"]) == (1.0, 0.0)
    assert found["gpu1_energy_j"] == 0.0  # the recording's counter stands still
    assert not any(name.startswith(("gpu0", "gpu2")) for name in found)
    assert "monitor_failures" not in found


def test_a_board_without_an_energy_counter_is_measured_by_power() -> None:
    nvml = Replay(L4)
    with Monitor(gpu_machine(nvml, device_ids=[0]), interval_s=0.02, nvml=nvml) as monitor:
        begin = time.perf_counter_ns()
        time.sleep(0.1)
        end = time.perf_counter_ns()
    found = monitor.summary(begin, end)
    assert found["gpu0_energy_j"] == pytest.approx(12.0 * (end - begin) / S)
    assert "monitor_failures" not in found  # not supported is not a failure


def test_failures_are_counted_and_nothing_is_raised() -> None:
    nvml = Replay(A100)
    machine = gpu_machine(nvml, device_ids=[0])
    with Monitor(machine, interval_s=0.02, nvml=nvml) as monitor:
        begin = time.perf_counter_ns()
        nvml.failing["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_GPU_IS_LOST
        time.sleep(0.1)
        found = monitor.summary(begin, time.perf_counter_ns())
    samples = [sample for sample in monitor.samples if sample.at_ns >= begin]
    assert found["monitor_failures"] >= 2
    assert sum(sample.failures for sample in samples) >= len(samples) - 1
    assert found["gpu0_temperature_c_max"] == 40.0


def test_this_process_is_seen_working() -> None:
    block = bytes(1 << 20)
    with Monitor(TWO_SLICES, interval_s=0.1) as monitor:
        begin = time.perf_counter_ns()
        while time.perf_counter_ns() < begin + S // 2:
            hashlib.sha256(block).digest()  # busy without holding the interpreter's lock, as an engine's client is
        end = time.perf_counter_ns()
    found = monitor.summary(begin, end)
    assert found["busiest_cpu_utilisation_max"] > 0.5
    assert 0 < found["cpu_utilisation_mean"] <= 1
    assert found["memory_available_bytes_min"] > 0
    assert "monitor_failures" not in found
    assert not monitor._thread.is_alive()
