"""The servers' own counters, once a second while the load runs: a second opinion on what the client counted."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import urllib.request
from collections.abc import Sequence
from types import TracebackType

import numpy as np

SCRAPE_INTERVAL_S, SCRAPE_TIMEOUT_S = 1.0, 5.0


class CounterWatch:
    """Context manager with a thread that reads one counter of `/metrics` from all servers and sums it.

    A thread, and urllib, because the event loop is busy with what is measured; a reading is a few lines, cut out by a
    regular expression. A server that does not answer leaves a gap, no exception.

    Args:
        base_urls: the servers, replicas of one another.
        counter: its name in Prometheus' text format.
        interval_s: time between readings.
    """

    def __init__(self, base_urls: Sequence[str], counter: str, interval_s: float = SCRAPE_INTERVAL_S) -> None:
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the servers are our own
        self._urls = [f"{url}/metrics" for url in base_urls]
        # `name{labels} value`, or `name value`
        self._line = re.compile(rb"^%b(?:\{[^\n]*\})? ([^ \n]+)" % re.escape(counter.encode()), re.MULTILINE)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._readings: list[tuple[int, float]] = []
        self._thread = threading.Thread(target=self._run, name="counters", daemon=True)

    def __enter__(self) -> CounterWatch:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    def increase(self, begin_ns: int, end_ns: int) -> float | None:
        """By how much the counter rose between two moments of `time.perf_counter_ns`, linear between readings.

        `None` where the readings do not reach around both.
        """
        if len(self._readings) < 2 or not self._readings[0][0] <= begin_ns <= end_ns <= self._readings[-1][0]:
            return None
        times, values = np.asarray(self._readings, dtype=np.float64).T
        at_begin, at_end = np.interp([begin_ns, end_ns], times, values)
        return float(at_end - at_begin)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        """One reading, stamped halfway between question and answer."""
        begin_ns = time.perf_counter_ns()
        total = 0.0
        with contextlib.suppress(OSError, ValueError):
            for url in self._urls:
                with self._opener.open(url, timeout=SCRAPE_TIMEOUT_S) as answer:
                    values = [float(value) for value in self._line.findall(answer.read())]
                if not values:
                    return
                total += sum(values)
            self._readings.append(((begin_ns + time.perf_counter_ns()) // 2, total))
