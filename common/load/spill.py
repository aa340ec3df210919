"""Answers wait on disk, not in memory, until the run is over and they are parsed."""

from __future__ import annotations

import asyncio
import tempfile
from array import array
from collections import deque
from types import TracebackType

from common.load.connection import Exchange, Segment
from common.load.stamped import StampedBytes

# What one turn moves at most, some 100 us of copying, and what an answer under way may hold in memory.
PIECES_AT_ONCE = 256


class Spill:
    """A temporary file that takes stamped pieces from exchanges, a few in every turn of the event loop.

    Memory then holds what is in flight and the little that ended since the last turn, whatever the length of the run.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="lab-answers-", buffering=0)  # noqa: SIM115  # closed in __exit__
        self._end = 0
        self._waiting: deque[Exchange] = deque()
        self._turn: asyncio.Handle | None = None
        self._full = False

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def take(self, exchange: Exchange) -> None:
        """Move the pieces that the exchange holds to disk, when the event loop gets to it."""
        if self._full:
            return
        self._waiting.append(exchange)
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._move_some)

    def stop(self) -> None:
        """Move nothing more; whatever is still in memory stays there."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def answer(self, exchange: Exchange) -> StampedBytes:
        """The exchange's answer as far as it came, in order of arrival."""
        stamps_ns, sizes, contents = array("q"), array("q"), []
        for segment in exchange.segments:
            self._file.seek(segment.offset)
            content = self._file.read(segment.bytes)
            numbers, at = array("q"), 16 * segment.pieces
            numbers.frombytes(content[:at])
            stamps_ns += numbers[: segment.pieces]
            sizes += numbers[segment.pieces :]
            contents.append(content[at:])
        rest = StampedBytes.of(exchange.pieces)
        return StampedBytes(stamps_ns + rest.stamps_ns, sizes + rest.sizes, b"".join((*contents, rest.content)))

    def _move_some(self) -> None:
        self._turn = None
        if not self._waiting:
            return
        exchange = self._waiting[0]
        pieces = exchange.pieces[:PIECES_AT_ONCE]
        if pieces:
            try:
                exchange.segments.append(self._write(pieces))
            except OSError:  # the disk is full: memory has to do
                self._full = True
                self._waiting.clear()
                return
            del exchange.pieces[:PIECES_AT_ONCE]
        if not exchange.pieces:
            self._waiting.popleft()
        if self._waiting:
            self._turn = asyncio.get_running_loop().call_soon(self._move_some)

    def _write(self, pieces: list[tuple[int, bytes]]) -> Segment:
        answer = StampedBytes.of(pieces)
        content = b"".join((answer.stamps_ns.tobytes(), answer.sizes.tobytes(), answer.content))
        segment = Segment(self._end, len(content), len(pieces))
        self._file.seek(self._end)
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]
        self._end += len(content)
        return segment
