"""The servers' own counters, once a second while the load runs: a second opinion on what the client counted."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import time
import urllib.request
from collections.abc import Sequence
from types import TracebackType

import numpy as np

SCRAPE_INTERVAL_S, SCRAPE_TIMEOUT_S = 1.0, 5.0


class CounterWatch:
    """Context manager with a thread that reads a counter and a gauge of `/metrics` from all servers and sums each.

    A thread, and urllib, because the event loop is busy with what is measured; a reading is a few lines, cut out by a
    regular expression. A server that does not answer leaves a gap, no exception.

    Args:
        base_urls: the servers, replicas of one another; with none nothing is read.
        counter: its name in Prometheus' text format.
        gauge: the same of a gauge; empty for none.
        interval_s: time between readings.
    """

    def __init__(
        self, base_urls: Sequence[str], counter: str, gauge: str = "", interval_s: float = SCRAPE_INTERVAL_S
    ) -> None:
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the servers are our own
        self._urls = [f"{url}/metrics" for url in base_urls]
        self._counter, self._gauge = _line(counter), _line(gauge) if gauge else None
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._readings: list[tuple[int, float]] = []
        self._levels: list[tuple[int, float]] = []
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

    def levels(self, begin_ns: int, end_ns: int) -> list[float]:
        """The gauge's readings between two moments of `time.perf_counter_ns`."""
        return [level for at_ns, level in self._levels if begin_ns <= at_ns <= end_ns]

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        """One reading, stamped halfway between question and answer."""
        begin_ns = time.perf_counter_ns()
        total: float | None = 0.0 if self._urls else None
        level: float | None = 0.0 if self._urls and self._gauge else None
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            for url in self._urls:
                with self._opener.open(url, timeout=SCRAPE_TIMEOUT_S) as answer:
                    content = answer.read()
                total = _plus(total, self._counter, content)
                level = _plus(level, self._gauge, content)
            at_ns = (begin_ns + time.perf_counter_ns()) // 2
            self._readings += [] if total is None else [(at_ns, total)]
            self._levels += [] if level is None else [(at_ns, level)]


def _line(name: str) -> re.Pattern[bytes]:
    """`name{labels} value`, or `name value`."""
    return re.compile(rb"^%b(?:\{[^\n]*\})? ([^ \n]+)" % re.escape(name.encode()), re.MULTILINE)


def _plus(total: float | None, line: re.Pattern[bytes] | None, content: bytes) -> float | None:
    """The total with this server's samples; None, for good, where it has none."""
    if total is None or line is None:
        return None
    values = [float(value) for value in line.findall(content)]
    return total + sum(values) if values else None
