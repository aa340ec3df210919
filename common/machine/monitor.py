"""Watches the machine once a second while a case runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.machine.devices import Machine
from common.machine.gpus import Nvml, open_nvml
from common.machine.samples import Sample, gpu_reader, read_cpu

LONGEST_GAP_S = 3.0  # a longer hole in the samples is not bridged
_SHORTEST_INTERVAL_S = 0.05  # busy seconds come in ticks of 10 ms: shares of a shorter time are noise

Array = npt.NDArray[np.float64]


class Monitor:
    """Context manager with a sampling thread. Failures inside it are counted, never raised.

    Args:
        machine: its devices are watched; its CPUs always are.
        interval_s: time between samples.
        nvml: stands in for pynvml.

    Raises:
        pynvml.NVMLError: a GPU of the machine is not there (while it watches, nothing is raised).
    """

    def __init__(self, machine: Machine, interval_s: float = 1.0, nvml: Nvml | None = None) -> None:
        self.samples: list[Sample] = []
        self._readers: list[Callable[[Sample], None]] = [read_cpu]
        if machine.kind == "gpu" and (nvml := nvml or open_nvml()) is not None:
            self._readers += [gpu_reader(nvml, device) for device in machine.devices]
        self._slice_cores = sorted(cpu for device in machine.devices for cpu in device.cores)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    def summary(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Flat numbers over a window of `time.perf_counter_ns`; what was not sampled is absent.

        Gauges give `_mean` and `_max` (`memory_available_bytes`: `_mean` and `_min`), utilisations are shares of 1:
        `cpu_utilisation` over all logical CPUs, `cpu<n>_utilisation` for the cores of slices, `busiest_cpu_...` for
        the busiest one in each interval. `gpu<n>_throttled_<reason>_mean` is the share of samples that saw the reason.
        `gpu<n>_energy_j` comes from the board's counter, or from its power where it has none.
        """
        if not self._stop.is_set():
            self._take()  # so that the window's end is covered
        with self._lock:
            samples = list(self.samples)
        found: dict[str, float] = {}
        for name in sorted({name for sample in samples for name in sample.gauges}):
            times, values = _series(samples, name)
            inside = values[(times >= begin_ns) & (times <= end_ns)]
            if len(inside):
                found[f"{name}_mean"] = float(inside.mean())
                lowest = name == "memory_available_bytes"
                found[f"{name}_{'min' if lowest else 'max'}"] = float(inside.min() if lowest else inside.max())
        found |= self._energies(samples, begin_ns, end_ns)
        found |= self._cpu_utilisations(samples, begin_ns, end_ns)
        failures = sum(sample.failures for sample in samples if begin_ns <= sample.at_ns <= end_ns)
        return found | ({"monitor_failures": float(failures)} if failures else {})

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._take()

    def _take(self) -> None:
        with self._lock:
            sample = Sample()
            for reader in self._readers:
                sample.read(reader)
            self.samples.append(sample)

    def _energies(self, samples: Sequence[Sample], begin_ns: int, end_ns: int) -> dict[str, float]:
        found: dict[str, float] = {}
        powered = {name for sample in samples for name in sample.gauges if name.endswith("_power_w")}
        counted = {name for sample in samples for name in sample.counters if name.endswith("_energy_j")}
        for name in sorted(counted | {power.removesuffix("_power_w") + "_energy_j" for power in powered}):
            if name in counted:
                energy_j = _growth(*_series(samples, name), begin_ns, end_ns)
            else:
                energy_j = _integral(*_series(samples, name.removesuffix("_energy_j") + "_power_w"), begin_ns, end_ns)
            if energy_j is not None:
                found[name] = energy_j
        return found

    def _cpu_utilisations(self, samples: Sequence[Sample], begin_ns: int, end_ns: int) -> dict[str, float]:
        """Shares of the window, from the growth of busy seconds: exact means, not means of glimpses."""
        names = sorted({name for sample in samples for name in sample.counters if name.endswith("_busy_s")})
        busy_s = {name: _growth(*_series(samples, name), begin_ns, end_ns) for name in names}
        window_s = (end_ns - begin_ns) / 1e9
        shares = {name: min(1.0, busy / window_s) for name, busy in busy_s.items() if busy is not None}
        if not shares:
            return {}
        found = {"cpu_utilisation_mean": sum(shares.values()) / len(shares)}
        for cpu in self._slice_cores:
            if f"cpu{cpu}_busy_s" in shares:
                found[f"cpu{cpu}_utilisation_mean"] = shares[f"cpu{cpu}_busy_s"]
        busiest = [
            share
            for earlier, later in pairwise(samples)
            if earlier.at_ns >= begin_ns
            and later.at_ns <= end_ns
            and (share := _busiest_share(earlier, later)) is not None
        ]
        if busiest:
            found |= {
                "busiest_cpu_utilisation_mean": float(np.mean(busiest)),
                "busiest_cpu_utilisation_max": max(busiest),
            }
        return found


def _series(samples: Sequence[Sample], name: str) -> tuple[Array, Array]:
    """Times in nanoseconds and values of one gauge or counter, where it was read."""
    pairs = [
        (sample.at_ns, value)
        for sample in samples
        if (value := sample.gauges.get(name, sample.counters.get(name))) is not None
    ]
    times, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)


def _covered(times: Array, begin_ns: int, end_ns: int) -> tuple[float, float] | None:
    """The part of the window that the samples span; `None` if more than a gap is missing at either end."""
    if len(times) < 2:
        return None
    begin, end = max(float(begin_ns), times[0]), min(float(end_ns), times[-1])
    missing_s = max(begin - begin_ns, end_ns - end) / 1e9
    return None if end <= begin or missing_s > LONGEST_GAP_S else (begin, end)


def _growth(times: Array, values: Array, begin_ns: int, end_ns: int) -> float | None:
    """How much a counter grew, interpolated to the window's edges; `None` if it ran backwards (a reset)."""
    span = _covered(times, begin_ns, end_ns)
    if span is None or bool(np.any(np.diff(values) < 0)):
        return None
    begin, end = span
    grown = float(np.interp(end, times, values) - np.interp(begin, times, values))
    return grown * (end_ns - begin_ns) / (end - begin)


def _integral(times: Array, values: Array, begin_ns: int, end_ns: int) -> float | None:
    """Trapezoids under a gauge, in its unit times seconds; `None` across a gap that is too long to bridge."""
    span = _covered(times, begin_ns, end_ns)
    if span is None:
        return None
    begin, end = span
    inner = (times > begin) & (times < end)
    at = np.concatenate(([begin], times[inner], [end]))
    around = times[(times >= times[times <= begin][-1]) & (times <= times[times >= end][0])]
    if np.diff(around).max(initial=0.0) / 1e9 > LONGEST_GAP_S:
        return None
    heights = np.interp(at, times, values)
    area = float(np.sum(np.diff(at) * (heights[1:] + heights[:-1]) / 2)) / 1e9
    return area * (end_ns - begin_ns) / (end - begin)


def _busiest_share(earlier: Sample, later: Sample) -> float | None:
    seconds = (later.at_ns - earlier.at_ns) / 1e9
    grown = [
        value - earlier.counters[name]
        for name, value in later.counters.items()
        if name.endswith("_busy_s") and name in earlier.counters
    ]
    return min(1.0, max(grown) / seconds) if grown and seconds > _SHORTEST_INTERVAL_S else None
