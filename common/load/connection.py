"""One HTTP/1.1 connection that stamps what arrives and leaves the parsing for later."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import cast

from common.core.record import RequestRecord
from common.load.response_end import ResponseEnd

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Target:
    """An endpoint as the wire sees it: resolved addresses, and each request's bytes before its length and body.

    With `tls` the connection is encrypted, and the server's certificate must be good for `host`.
    """

    name: str
    addresses: tuple[tuple[str, int], ...]
    head: bytes = field(repr=False)  # holds the API key
    host: str = ""
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Where pieces of an answer lie in the spill file: their stamps, then their sizes, then their bytes."""

    offset: int
    bytes: int
    pieces: int


@dataclass(slots=True)
class Exchange:
    """One request on its way: its ready-made bytes and the stamped pieces of its answer, on disk and in memory."""

    record: RequestRecord
    payload: bytes
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    @property
    def received(self) -> int:
        """How many pieces have arrived."""
        return len(self.pieces) + sum(segment.pieces for segment in self.segments)


class Connection(asyncio.Protocol):
    """Carries one exchange at a time. `data_received` is the hot path: a stamp, an append, a look at the tail."""

    def __init__(self, on_answer: Callable[[], None], on_loss: Callable[[Exception | None], None]) -> None:
        self._on_answer = on_answer
        self._on_loss = on_loss
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._end = ResponseEnd()
        self.answers = 0

    @property
    def usable(self) -> bool:
        """Whether the next request may be sent here."""
        return self._transport is not None and not self._transport.is_closing() and self._end.keep_alive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback; both loops have set TCP_NODELAY by now."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, head: bytes, exchange: Exchange) -> None:
        """Write the request; asyncio and uvloop hand it to the kernel before they return."""
        assert self._transport is not None
        self._exchange = exchange
        self._end = ResponseEnd()
        request = head + exchange.payload
        record = exchange.record
        record.sent_ns = perf_counter_ns()
        if record.intended_ns is None:
            record.intended_ns = record.sent_ns
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Stamp and keep; parsing comes after the run."""
        now_ns = perf_counter_ns()
        exchange = self._exchange
        if exchange is None:
            return  # nobody asked for these bytes
        exchange.pieces.append((now_ns, data))
        if self._end.reached_by(data):
            exchange.record.ended_ns = now_ns
            self._exchange = None
            self.answers += 1
            self._on_answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback for the end of the connection, whoever ended it."""
        self._exchange = None
        self._on_loss(exc)

    def discard(self) -> None:
        """Close at once and report nothing more."""
        self._exchange = None
        self._on_loss = lambda exc: None
        if self._transport is not None:
            self._transport.abort()


def tls_context() -> ssl.SSLContext:
    """For connections to servers whose certificate is checked against this system's authorities."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(target: Target, connection: Connection) -> None:
    """Open the connection to the first of the target's addresses that answers.

    Raises:
        OSError: none does (`TimeoutError` included).
    """
    failure: OSError = ConnectionError(f"{target.name} has no address")
    for host, port in target.addresses:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, host, port, ssl=target.tls, server_hostname=target.host if target.tls else None
                )
            return
        except TimeoutError:
            failure = TimeoutError(f"{target.name} did not accept a connection within {CONNECT_TIMEOUT_S:.0f} s")
        except OSError as problem:
            failure = problem
    raise failure
