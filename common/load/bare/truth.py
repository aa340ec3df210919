"""What a bare server truly did, noted while it serves and summed up when asked."""

from __future__ import annotations

import statistics
from array import array
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Truth:
    """The server's own account of the requests that ended since it was last asked; without data a time is `None`.

    `mean_ttft_s`, `p99_ttft_s`: from the moment a request had been read to the moment its first token was handed to
    the socket. `mean_tpot_s`: first token to last over the tokens after the first, of requests with two or more.
    `late_p99_s`, `late_max_s`: how long after its time, or after a full socket had room again, a token was handed
    over; a flood has such times only for first tokens. `abandoned` are answers whose reader went away.
    """

    requests: int = 0
    tokens: int = 0
    abandoned: int = 0
    mean_ttft_s: float | None = None
    p99_ttft_s: float | None = None
    mean_tpot_s: float | None = None
    late_p99_s: float | None = None
    late_max_s: float | None = None


def _nanoseconds() -> array[int]:
    return array("q")


@dataclass
class TruthLog:
    """Eight bytes a number: a second of 100,000 sends is under a megabyte."""

    tokens: int = 0
    abandoned: int = 0
    ttft_ns: array[int] = field(default_factory=_nanoseconds)
    tpot_ns: array[int] = field(default_factory=_nanoseconds)
    late_ns: array[int] = field(default_factory=_nanoseconds)

    def enter(self, read_ns: int, first_ns: int, last_ns: int, tokens: int) -> None:
        """Note a complete answer: when its request had been read, its first and last token sent, and how many."""
        self.tokens += tokens
        self.ttft_ns.append(first_ns - read_ns)
        if tokens > 1:
            self.tpot_ns.append((last_ns - first_ns) // (tokens - 1))

    def summary(self) -> Truth:
        """All of it as means and percentiles."""
        late = sorted(self.late_ns)
        return Truth(
            requests=len(self.ttft_ns),
            tokens=self.tokens,
            abandoned=self.abandoned,
            mean_ttft_s=_mean_s(self.ttft_ns),
            p99_ttft_s=_p99_s(sorted(self.ttft_ns)),
            mean_tpot_s=_mean_s(self.tpot_ns),
            late_p99_s=_p99_s(late),
            late_max_s=late[-1] / 1e9 if late else None,
        )


def _mean_s(values_ns: array[int]) -> float | None:
    return statistics.fmean(values_ns) / 1e9 if values_ns else None


def _p99_s(ascending_ns: list[int]) -> float | None:
    """Linear between the two nearest values, as numpy has it."""
    if not ascending_ns:
        return None
    place = 0.99 * (len(ascending_ns) - 1)
    below = int(place)
    above = min(below + 1, len(ascending_ns) - 1)
    return (ascending_ns[below] + (place - below) * (ascending_ns[above] - ascending_ns[below])) / 1e9
