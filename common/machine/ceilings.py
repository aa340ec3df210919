"""What the machine itself gives: the matrix and memory rate of one slice alone, and of all slices at once.

Slices share memory bandwidth, last-level cache and turbo. A plan cannot scale better than the hardware under it, so
these two ratios stand beside every speed-up on a CPU. One small process per slice does the work
(`python -m common.machine.ceilings --cores 0,1`), pinned, with one thread per core and no threads inside BLAS.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from common.machine.cpus import last_level_cache_bytes
from common.machine.devices import Machine

MATRIX_SIZE = 1024  # 3 matrices of 4 MiB: large enough for BLAS's full rate, small enough for many turns
_ROUNDS = 5
_TURN_S = 0.15
_START_UP_S = 60.0
_SMALLEST_ARRAYS_BYTES = 64 << 20
_UNKNOWN_CACHE_BYTES = 64 << 20
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Ceilings:
    """Rates of one slice alone and of all together; float32 operations and bytes read from memory, per second.

    Each is the median over a few short rounds. The ranges hold the lowest and highest ratio of single rounds: in a
    virtual machine whose cores are moved about, memory scaling can jump between 1 and 2 from second to second.
    """

    matrix_flops_one: float
    matrix_flops_all: float
    memory_bytes_per_s_one: float
    memory_bytes_per_s_all: float
    devices: int
    seconds: float  # what the measurement took
    matrix_scaling_range: tuple[float, float] | None = None
    memory_scaling_range: tuple[float, float] | None = None

    @property
    def matrix_scaling(self) -> float:
        """How many times one slice's matrix rate all slices reach together: the ceiling of compute-bound work."""
        return self.matrix_flops_all / self.matrix_flops_one

    @property
    def memory_scaling(self) -> float:
        """How many times one slice's bandwidth all slices reach together: the ceiling of decoding small batches."""
        return self.memory_bytes_per_s_all / self.memory_bytes_per_s_one


def measure_ceilings(machine: Machine, turn_s: float = _TURN_S) -> Ceilings | None:
    """Measure all slices of a CPU machine, in about `20 * turn_s` seconds; `None` for GPUs, not yet measured there.

    One slice (the first) and all of them take turns, so that both see the same neighbours.

    Raises:
        RuntimeError: a worker did not start or died; the message ends with its last words.
    """
    if machine.kind != "cpu":
        return None
    began = time.perf_counter()
    slices = [device.cores for device in machine.devices]
    share_bytes = psutil.virtual_memory().available // 4 // len(slices)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_Worker(cores, share_bytes)) for cores in slices]
        for worker in workers:
            worker.wait_until_ready()
        matrix, memory = (_rounds(workers, measure, turn_s) for measure in ("matrix", "memory"))
    return Ceilings(
        *matrix.rates,
        *memory.rates,
        devices=len(slices),
        seconds=time.perf_counter() - began,
        matrix_scaling_range=matrix.ratio_range,
        memory_scaling_range=memory.ratio_range,
    )


@dataclass(frozen=True)
class _Rounds:
    """Medians of one slice alone and of all together, and the range of the rounds' own ratios."""

    rates: tuple[float, float]
    ratio_range: tuple[float, float]


def _rounds(workers: Sequence[_Worker], measure: str, turn_s: float) -> _Rounds:
    pairs = [(_together(workers[:1], measure, turn_s), _together(workers, measure, turn_s)) for _ in range(_ROUNDS)]
    ratios = [everyone / alone for alone, everyone in pairs]
    alone, everyone = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    return _Rounds((alone, everyone), (min(ratios), max(ratios)))


class _Worker:
    """The process of one slice; it says `ready`, then answers each line `measure seconds` with a rate."""

    def __init__(self, cores: Sequence[int], share_bytes: int) -> None:
        command = [sys.executable, "-m", "common.machine.ceilings", "--cores", ",".join(map(str, cores))]
        self._process = subprocess.Popen(
            [*command, "--share-bytes", str(share_bytes)],
            env={**os.environ, **dict.fromkeys(_THREAD_SETTINGS, "1")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(_START_UP_S, self._process.kill)

    def __enter__(self) -> _Worker:
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        with self._process:  # closes the pipes and reaps it
            pass

    def wait_until_ready(self) -> None:
        """Block until its arrays are filled and its libraries warm."""
        self.answer()
        self._watchdog.cancel()

    def ask(self, measure: str, turn_s: float) -> None:
        """Start a turn."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; answer() says why
            self._process.stdin.write(f"{measure} {turn_s}\n")
            self._process.stdin.flush()

    def answer(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            words = self._process.stderr.read().strip().splitlines()
            raise RuntimeError(f"the machine's ceilings could not be measured: {words[-1] if words else 'no answer'}")
        return line.strip()


def _together(workers: Sequence[_Worker], measure: str, turn_s: float) -> float:
    """Sum of the rates of workers that start at the same time (within the microseconds that the pipes take)."""
    for worker in workers:
        worker.ask(measure, turn_s)
    return sum(float(worker.answer()) for worker in workers)


class _CoreLoad:
    """One core's thread: its own matrices and arrays, touched first by itself so that they lie on its NUMA node."""

    def __init__(self, cpu: int, array_bytes: int) -> None:
        _pin({cpu})
        self._matrix = np.ones((MATRIX_SIZE, MATRIX_SIZE), np.float32)
        self._product = np.empty_like(self._matrix)
        self._left = np.ones(array_bytes // 8, np.float32)  # two arrays of 4-byte numbers
        self._right = np.ones(array_bytes // 8, np.float32)
        self.turn("matrix", 0.0)
        self.turn("memory", 0.0)

    def turn(self, measure: str, turn_s: float) -> float:
        """Operations or bytes per second over at least `turn_s` and at least one repetition."""
        if measure == "matrix":
            return _rate(self._multiply, 2.0 * MATRIX_SIZE**3, turn_s)
        return _rate(self._read, float(self._left.nbytes + self._right.nbytes), turn_s)

    def _multiply(self) -> None:
        np.matmul(self._matrix, self._matrix, out=self._product)

    def _read(self) -> None:
        np.dot(self._left, self._right)  # reads only, as decoding reads weights; writes would cost twice


def _rate(work: Callable[[], None], amount: float, turn_s: float) -> float:
    began, repetitions = time.perf_counter(), 0
    while True:
        work()
        repetitions += 1
        elapsed_s = time.perf_counter() - began
        if elapsed_s >= turn_s:
            return amount * repetitions / elapsed_s


def _pin(cpus: set[int]) -> None:
    """Pin the calling thread; off Linux there is no such call and the scheduler decides."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cpus)


def _array_bytes(cores: Sequence[int], share_bytes: int) -> int:
    """Per core: four times the cache that the slice reaches, but never more than its share of memory."""
    cache = last_level_cache_bytes(cores[0]) or _UNKNOWN_CACHE_BYTES
    wanted = max(4 * cache // len(cores), _SMALLEST_ARRAYS_BYTES)
    return min(wanted, share_bytes // len(cores))


def _serve(cores: Sequence[int], share_bytes: int) -> None:
    """Answer turns until the parent closes the pipe: every core in a thread, all starting at a barrier."""
    _pin(set(cores))
    threading.excepthook = _end_process
    lines: list[str] = []
    rates = [0.0] * len(cores)
    begin, end = threading.Barrier(len(cores) + 1), threading.Barrier(len(cores) + 1)

    def work(place: int) -> None:
        load = _CoreLoad(cores[place], _array_bytes(cores, share_bytes))
        end.wait()
        while True:
            begin.wait()
            measure, turn_s = lines[-1].split()
            rates[place] = load.turn(measure, float(turn_s))
            end.wait()

    for place in range(len(cores)):
        threading.Thread(target=work, args=(place,), daemon=True).start()
    end.wait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        lines.append(line)
        begin.wait()
        end.wait()
        sys.stdout.write(f"{sum(rates)}\n")
        sys.stdout.flush()


def _end_process(caught: threading.ExceptHookArgs) -> None:
    """A core's thread that fails would leave the others waiting at the barrier; the parent reads the last line."""
    sys.stderr.write(f"{caught.exc_type.__name__}: {caught.exc_value}\n")
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    """The worker's side."""
    parser = argparse.ArgumentParser(description="Serve one slice's rates over stdin and stdout.")
    parser.add_argument("--cores", required=True, help="logical CPU ids, comma-separated")
    parser.add_argument("--share-bytes", type=int, required=True, help="memory that this slice may take")
    options = parser.parse_args()
    _serve([int(cpu) for cpu in options.cores.split(",")], options.share_bytes)


if __name__ == "__main__":
    main()
