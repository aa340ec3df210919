"""An answer as it came in: bytes, and when each piece of them arrived."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StampedBytes:
    """`content` arrived in pieces: `sizes[i]` bytes at `stamps_ns[i]` (`perf_counter_ns`), in this order."""

    stamps_ns: array[int]
    sizes: array[int]
    content: bytes

    @classmethod
    def of(cls, pieces: Iterable[tuple[int, bytes]]) -> StampedBytes:
        """Put together what was kept apart."""
        pieces = list(pieces)
        stamps_ns, sizes = [stamp_ns for stamp_ns, _ in pieces], [len(data) for _, data in pieces]
        return cls(array("q", stamps_ns), array("q", sizes), b"".join([data for _, data in pieces]))

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Each piece with its stamp."""
        at = 0
        for stamp_ns, size in zip(self.stamps_ns, self.sizes, strict=True):
            yield stamp_ns, self.content[at : at + size]
            at += size
