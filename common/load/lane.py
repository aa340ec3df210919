"""A lane: a place in the run that carries one exchange at a time and keeps a connection open for the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from common.load.connection import Connection, Exchange, Target, connect

# A server that closes an idle connection may cross with a request on its way. The request was then never read, and
# the close is seen within a round trip; later than this the server had it and died.
KEEP_ALIVE_RACE_NS = 200_000_000


class Lane:
    """Sends, reconnects where the server closed, and ends each exchange exactly once through `on_end`.

    `on_end` runs inside the callback in which the last byte was stamped, so that the next request leaves at once.
    A lane whose connection was refused is `dead`: it fails whatever it is given.
    """

    def __init__(self, target: Target, on_end: Callable[[Lane, Exchange], None], slot: int | None = None) -> None:
        self.target = target
        self.slot = slot  # of a closed loop
        self.exchange: Exchange | None = None
        self._on_end = on_end
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._refusal: str | None = None

    @property
    def dead(self) -> bool:
        """Whether its endpoint refused a connection."""
        return self._refusal is not None

    async def open(self) -> None:
        """Connect; a refusal is kept, not raised."""
        connection = Connection(self._answered, self._lost)
        try:
            await connect(self.target, connection)
        except OSError as failure:
            self._refusal = f"cannot connect to {self.target.name}: {failure.strerror or failure}"
        else:
            self._connection = connection

    def send(self, exchange: Exchange) -> None:
        """Send now where a connection stands, else as soon as one does."""
        self.exchange = exchange
        exchange.record.slot = self.slot
        if self._refusal is not None:
            self._end("refused", self._refusal)
        elif self._connection is not None and self._connection.usable:
            self._connection.send(self.target.head, exchange)
        else:
            self._drop_connection()
            if exchange.record.intended_ns is None:
                exchange.record.intended_ns = time.perf_counter_ns()  # the wait for a connection is not hidden
            self._opening = asyncio.get_running_loop().create_task(self._open_and_send(exchange))

    def expire(self, now_ns: int, timeout_s: float) -> None:
        """End an exchange that was sent longer ago than the timeout."""
        sent_ns = None if self.exchange is None else self.exchange.record.sent_ns
        if sent_ns is not None and now_ns - sent_ns > timeout_s * 1e9:
            self._drop_connection()
            self._end("timeout", f"no complete answer within {timeout_s:g} s")

    def cancel(self, kind: str, why: str) -> None:
        """Close the connection and end an unfinished exchange with this kind of error."""
        if self._opening is not None:
            self._opening.cancel()
        self._drop_connection()
        if self.exchange is not None:
            self._end(kind, why)

    async def _open_and_send(self, exchange: Exchange) -> None:
        await self.open()
        self._opening = None
        if self.exchange is not exchange:
            return
        if self._connection is not None and not self._connection.usable:
            # trying again here could go on for ever
            self._end("reset", f"{self.target.name} closed the connection as soon as it was open")
        else:
            self.send(exchange)

    def _answered(self) -> None:
        self._end(None, None)

    def _lost(self, failure: Exception | None) -> None:
        connection, self._connection = self._connection, None
        exchange = self.exchange
        if exchange is None or connection is None:
            return  # idle: the next request opens a new one
        if connection.answers and _was_never_read(exchange):
            exchange.record.sent_ns = None
            self.send(exchange)
        elif failure is not None:
            self._end("reset", f"{self.target.name}: {failure}")
        else:
            self._end("truncated", f"{self.target.name} closed the connection before the end of its answer")

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.discard()
            self._connection = None

    def _end(self, error_kind: str | None, error: str | None) -> None:
        assert self.exchange is not None
        exchange, self.exchange = self.exchange, None
        if error_kind is not None:
            exchange.record.ended_ns = time.perf_counter_ns()
            exchange.record.error_kind, exchange.record.error = error_kind, error
        self._on_end(self, exchange)


def _was_never_read(exchange: Exchange) -> bool:
    sent_ns = exchange.record.sent_ns
    return not exchange.received and sent_ns is not None and time.perf_counter_ns() - sent_ns < KEEP_ALIVE_RACE_NS
