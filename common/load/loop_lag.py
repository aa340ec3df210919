"""How late the event loop runs what was due: the client's own share of a bad number."""

from __future__ import annotations

import asyncio
import time

import numpy as np

TICK_S = 0.010


class LoopLag:
    """A ticker that notes how much later than 10 ms after the last tick it was called.

    uvloop's timers count whole milliseconds, so up to 1 ms of it is rounding.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late_ns: list[int] = []
        self._due_ns = 0
        self._rearm()

    def stop(self) -> tuple[float, float]:
        """The largest and the 99th percentile lateness in seconds; a tick overdue at this moment counts."""
        self._handle.cancel()
        self._note()
        return max(self._late_ns) / 1e9, float(np.percentile(self._late_ns, 99)) / 1e9

    def _tick(self) -> None:
        self._note()
        self._rearm()

    def _note(self) -> None:
        self._late_ns.append(max(0, time.perf_counter_ns() - self._due_ns))

    def _rearm(self) -> None:
        self._due_ns = time.perf_counter_ns() + round(TICK_S * 1e9)
        self._handle = self._loop.call_later(TICK_S, self._tick)
