"""How late the event loop runs what was due: the client's own share of a bad number."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np

TICK_S = 0.010


@dataclass(frozen=True)
class Lag:
    """How late ticks were, and what that means for a stamp.

    `delay_s` is what a random arrival waits on average: it meets a halt of length M with probability M / watched time
    and then waits M / 2 for its end.
    """

    max_s: float
    p99_s: float
    delay_s: float


class LoopLag:
    """A ticker that notes how much later than 10 ms after the last tick it was called.

    uvloop's timers count whole milliseconds, so up to 1 ms of it is rounding.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late_ns: list[int] = []
        self._due_ns = 0
        self._begin_ns = time.perf_counter_ns()
        self._rearm()

    def stop(self) -> Lag:
        """What was seen; a tick overdue at this moment counts."""
        self._handle.cancel()
        self._note()
        late_s = np.asarray(self._late_ns) / 1e9
        watched_s = (time.perf_counter_ns() - self._begin_ns) / 1e9
        delay_s = float(np.square(late_s).sum() / (2 * watched_s))
        return Lag(float(late_s.max()), float(np.percentile(late_s, 99)), delay_s)

    def _tick(self) -> None:
        self._note()
        self._rearm()

    def _note(self) -> None:
        self._late_ns.append(max(0, time.perf_counter_ns() - self._due_ns))

    def _rearm(self) -> None:
        self._due_ns = time.perf_counter_ns() + round(TICK_S * 1e9)
        self._handle = self._loop.call_later(TICK_S, self._tick)
