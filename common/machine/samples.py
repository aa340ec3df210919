"""One look at the machine: what `Monitor` takes once a second. Gauges hold for a moment, counters only grow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import pynvml

from common.machine.cpus import online_cpus
from common.machine.devices import Device
from common.machine.gpus import Nvml

THROTTLE_REASONS = {
    "power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "hardware": pynvml.nvmlClocksEventReasonHwSlowdown,
}
_NOT_TOLD = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
)


@dataclass
class Sample:
    """Readings by name at `at_ns` (`time.perf_counter_ns`), and how many of them failed."""

    at_ns: int = field(default_factory=time.perf_counter_ns)
    gauges: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    failures: int = 0

    def read(self, reader: Callable[[Sample], None]) -> None:
        """Run a reader; whatever it raises is counted, because watching must not end what is watched."""
        try:
            reader(self)
        except Exception:  # noqa: BLE001
            self.failures += 1


def gpu_reader(nvml: Nvml, device: Device) -> Callable[[Sample], None]:
    """Reads one GPU; what its board does not offer stays absent and is no failure."""
    handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
    name = f"gpu{device.index}"

    def reader(sample: Sample) -> None:
        def take(call: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - NVML's structures
            try:
                return call(handle, *arguments)
            except pynvml.NVMLError as error:
                sample.failures += error.value not in _NOT_TOLD
                return None

        gauges = {
            "utilisation": _scaled(getattr(take(nvml.nvmlDeviceGetUtilizationRates), "gpu", None), 1e-2),
            "memory_used_bytes": getattr(take(nvml.nvmlDeviceGetMemoryInfo, pynvml.nvmlMemory_v2), "used", None),
            "power_w": _scaled(take(nvml.nvmlDeviceGetPowerUsage), 1e-3),
            "sm_clock_hz": _scaled(take(nvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM), 1e6),
            "temperature_c": take(nvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
        }
        reasons = take(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)  # newer name: ClocksEventReasons, since 535
        if reasons is not None:
            gauges |= {f"throttled_{reason}": bool(reasons & bits) for reason, bits in THROTTLE_REASONS.items()}
        sample.gauges |= {f"{name}_{key}": float(value) for key, value in gauges.items() if value is not None}
        energy_j = _scaled(take(nvml.nvmlDeviceGetTotalEnergyConsumption), 1e-3)
        if energy_j is not None:
            sample.counters[f"{name}_energy_j"] = energy_j

    return reader


def read_cpu(sample: Sample) -> None:
    """Busy seconds of each logical CPU since boot, and the memory that is available without swapping."""
    cpu_times = psutil.cpu_times(percpu=True)
    online = online_cpus()  # psutil numbers on without those that are switched off
    ids = online if len(online) == len(cpu_times) else range(len(cpu_times))
    for cpu, times in zip(ids, cpu_times, strict=True):
        kinds = (getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))
        sample.counters[f"cpu{cpu}_busy_s"] = sum(kinds)
    sample.gauges["memory_available_bytes"] = float(psutil.virtual_memory().available)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
