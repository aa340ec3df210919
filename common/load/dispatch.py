"""Which request goes on which lane, and when: closed loop and open loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.core.arrivals import ClosedLoop
from common.load.connection import Exchange, Target
from common.load.lane import Lane
from common.load.spill import Spill

CANCELLED, STOPPED = "cancelled", "the run was stopped"
_OPENING_AT_ONCE = 64  # a server's listen backlog is finite
_SENDS_AT_ONCE = 32  # then look at what has arrived: a long burst of sends would make the first stamps late
_POOL_SECONDS = 2.0  # connections are opened in advance for the busiest such time of the schedule
_POOL_LIMITS = (8, 512)

Array = npt.NDArray[np.float64]


class Ledger:
    """What has ended so far, and the moment when everything has."""

    def __init__(self, exchanges: int, spill: Spill) -> None:
        self.done = 0
        self.pieces = 0
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exchanges = exchanges
        self.spill = spill.take

    def enter(self, exchange: Exchange) -> None:
        """Count an exchange that has ended, and let its answer go to disk."""
        self.done += 1
        self.pieces += exchange.received
        self.spill(exchange)
        if self.done == self._exchanges and not self.complete.done():
            self.complete.set_result(None)

    def fail_all(self, exchanges: deque[Exchange], error_kind: str, error: str | None) -> None:
        """Empty a queue of requests that will never be sent."""
        while exchanges:
            exchange = exchanges.popleft()
            exchange.record.error_kind, exchange.record.error = error_kind, error
            exchange.record.ended_ns = time.perf_counter_ns()
            self.enter(exchange)


class ClosedDispatch:
    """Slot i talks to target i modulo their number, and sends its next request when its last one has ended.

    All slots draw from one queue. A slot whose endpoint refuses a connection ends one request and retires; when no
    slot is left the rest are refused too.
    """

    def __init__(
        self, arrivals: ClosedLoop, targets: Sequence[Target], exchanges: Sequence[Exchange], spill: Spill
    ) -> None:
        self.ledger = Ledger(len(exchanges), spill)
        slots = min(arrivals.concurrency, len(exchanges))
        self.lanes = [Lane(targets[slot % len(targets)], self._ended, slot) for slot in range(slots)]
        self._queue = deque(exchanges)
        self._living = slots

    async def start(self) -> None:
        """Send the first request of every slot."""
        for slot, lane in enumerate(self.lanes):
            if slot % _SENDS_AT_ONCE == _SENDS_AT_ONCE - 1:
                await asyncio.sleep(0)
            self._send_next(lane)

    def stop(self, kind: str = CANCELLED, why: str = STOPPED) -> None:
        """Send nothing more; what was not sent ends as cancelled, what is in flight as `kind`."""
        self.ledger.fail_all(self._queue, CANCELLED, STOPPED)
        for lane in self.lanes:
            lane.cancel(kind, why)

    def _ended(self, lane: Lane, exchange: Exchange) -> None:
        self.ledger.enter(exchange)
        if not lane.dead:
            self._send_next(lane)
            return
        self._living -= 1
        if not self._living:
            self.ledger.fail_all(self._queue, "refused", exchange.record.error)

    def _send_next(self, lane: Lane) -> None:
        if self._queue:
            lane.send(self._queue.popleft())


class OpenDispatch:
    """Request i is sent to target i modulo their number at its own time, on a free connection or a new one."""

    def __init__(
        self, schedule_s: Array, targets: Sequence[Target], exchanges: Sequence[Exchange], spill: Spill
    ) -> None:
        """`schedule_s` holds the intended send times in seconds from the start, shape (requests,), ascending."""
        self.ledger = Ledger(len(exchanges), spill)
        self._loop = asyncio.get_running_loop()
        self._schedule_ns = (schedule_s * 1e9).astype(int).tolist()
        self._queue = deque(exchanges)
        self._targets = targets
        self._turn = 0
        fewest, most = _POOL_LIMITS
        lanes = min(len(exchanges), max(fewest, min(most, _busiest(schedule_s, _POOL_SECONDS))))
        self.lanes = [Lane(targets[i % len(targets)], self._ended) for i in range(lanes)]
        self._free: dict[str, list[Lane]] = {target.name: [] for target in targets}
        for lane in self.lanes:
            self._free[lane.target.name].append(lane)
        self._timer: asyncio.Handle | None = None

    async def start(self) -> None:
        """Fix every intended time from this moment on, and send the first when it is due."""
        begin_ns = time.perf_counter_ns()
        for exchange, after_ns in zip(self._queue, self._schedule_ns, strict=True):
            exchange.record.intended_ns = begin_ns + after_ns
        self._send_due()

    def stop(self, kind: str = CANCELLED, why: str = STOPPED) -> None:
        """Send nothing more; what was not sent ends as cancelled, what is in flight as `kind`."""
        if self._timer is not None:
            self._timer.cancel()
        self.ledger.fail_all(self._queue, CANCELLED, STOPPED)
        for lane in self.lanes:
            lane.cancel(kind, why)

    def _send_due(self) -> None:
        while self._queue:
            intended_ns = self._queue[0].record.intended_ns
            assert intended_ns is not None
            wait_ns = intended_ns - time.perf_counter_ns()
            if wait_ns > 0:
                # Timers count milliseconds. uvloop rounds, so a timer may come early; the rest of that millisecond
                # is then spent going round the loop, which keeps sends within half a millisecond of their time.
                self._timer = self._loop.call_later(wait_ns / 1e9, self._send_due)
                return
            self._free_lane().send(self._queue.popleft())

    def _free_lane(self) -> Lane:
        target = self._targets[self._turn % len(self._targets)]
        self._turn += 1
        free = self._free[target.name]
        while free:
            lane = free.pop()
            if not lane.dead:
                return lane
        lane = Lane(target, self._ended)
        self.lanes.append(lane)
        return lane

    def _ended(self, lane: Lane, exchange: Exchange) -> None:
        self.ledger.enter(exchange)
        if not lane.dead:
            self._free[lane.target.name].append(lane)


Dispatch = ClosedDispatch | OpenDispatch


def _busiest(schedule_s: Array, window_s: float) -> int:
    """The most arrivals in any window of this length that begins with one."""
    until = np.searchsorted(schedule_s, schedule_s + window_s)
    return int((until - np.arange(len(schedule_s))).max())


async def open_lanes(lanes: Sequence[Lane]) -> None:
    """Connect all lanes, some at a time."""
    turns = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def open_one(lane: Lane) -> None:
        async with turns:
            await lane.open()

    await asyncio.gather(*map(open_one, lanes))
