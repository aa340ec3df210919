"""Which share of requests met limits on latency: exactly from their times, or bounds from what a repeat kept of them.

Limits are milliseconds by name: `ttft`, `tpot`, `e2el`. A request that failed meets none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.core.record import RequestRecord

LIMITED = ("ttft", "tpot", "e2el")
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """Bounds on a share of `requests`; equal where it is known."""

    low: float
    high: float
    requests: int


@dataclass(frozen=True)
class RequestTimes:
    """Milliseconds of every request by name, each of shape (requests,); infinite where there was no answer."""

    times_ms: Mapping[str, Times]

    @classmethod
    def of(cls, records: Sequence[RequestRecord]) -> RequestTimes:
        """The latencies of requests. As in vLLM, an answer of one token meets every limit on TPOT."""
        found = {
            "ttft": [record.ttft_s if record.ok else None for record in records],
            "tpot": [(record.tpot_s or 0.0) if record.ok else None for record in records],
            "e2el": [record.e2el_s if record.ok else None for record in records],
        }
        unanswered = math.inf
        return cls(
            {
                name: np.array([unanswered if value is None else 1e3 * value for value in values], dtype=np.float64)
                for name, values in found.items()
            }
        )

    def share(self, limits_ms: Mapping[str, float]) -> Share:
        """The share of requests that met every limit."""
        met = np.logical_and.reduce([self.times_ms[name] <= limit for name, limit in limits_ms.items()])
        share = float(met.mean())
        return Share(share, share, len(met))

    def seen_ms(self, name: str) -> list[float]:
        """Every time that a limit of this name could be set at, ascending, to let one more request in."""
        return [float(value) for value in np.unique(self.times_ms[name]) if math.isfinite(value)]


@dataclass(frozen=True)
class RepeatTimes:
    """What is left of one repeat where its requests are not: percentiles, and the share that met the limits held.

    `percentiles_ms` are numpy's linear ones of completed requests, by name and percentile (a whole number).
    """

    requests: int
    completed: int
    percentiles_ms: Mapping[str, Mapping[int, float]]
    held_ms: Mapping[str, float] = field(default_factory=dict)
    good: float | None = None  # the share that met `held_ms`

    def share(self, limits_ms: Mapping[str, float]) -> Share:
        """Bounds on the share that met every limit: exact where these limits were held, else as tight as can be shown.

        Where each limit alone is missed by a share m, all together are missed by no more than the sum of the m (Boole)
        and no less than the largest. Laxer limits than those held let no fewer requests pass, stricter ones no more.
        """
        if self.good is not None and dict(limits_ms) == dict(self.held_ms):
            return Share(self.good, self.good, self.requests)
        each = [self._alone(name, limit) for name, limit in limits_ms.items()]
        answered = self.completed / self.requests
        low = answered * max(0.0, 1 - sum(1 - low for low, _ in each))
        high = answered * min(high for _, high in each)
        if self.good is not None and self.held_ms:
            if all(limit >= self.held_ms.get(name, math.inf) for name, limit in limits_ms.items()):
                low = max(low, self.good)
            if all(limits_ms.get(name, math.inf) <= limit for name, limit in self.held_ms.items()):
                high = min(high, self.good)
        return Share(low, max(low, high), self.requests)

    def seen_ms(self, name: str) -> list[float]:
        """Every limit of this name at which more can be shown, ascending."""
        held = [self.held_ms[name]] if name in self.held_ms else []
        return sorted({*(bound for _, bound in self._at_most(name)), *held})

    def _alone(self, name: str, limit: float) -> tuple[float, float]:
        """Bounds on the share of completed requests within one limit."""
        if not self.completed:
            return 0.0, 0.0
        met = max((count for count, bound in self._at_most(name) if bound <= limit), default=0)
        over = [-(-p * (self.completed - 1) // 100) for p, value in self._known(name) if value > limit]
        return met / self.completed, min(over, default=self.completed) / self.completed

    def _at_most(self, name: str) -> list[tuple[int, float]]:
        """Pairs (count, bound): so many completed requests at least took no longer.

        The p-th percentile of n is x[k] + f (x[k+1] - x[k]), where k + f = p (n - 1) / 100. So k + 1 requests took no
        longer than it; and the next one no longer than (value - (1 - f) least) / f, where x[k] is no less than `least`:
        a percentile that lies at x[k] or before it.
        """
        pairs = []
        last = self.completed - 1
        known = self._known(name)
        for p, value in known:
            rank, part = divmod(p * last, 100)
            pairs.append((rank + 1, value))
            if part:
                least = max((lower for other, lower in known if -(-other * last // 100) <= rank), default=0.0)
                pairs.append((rank + 2, max(value, (value - (1 - part / 100) * least) / (part / 100))))
        return pairs

    def _known(self, name: str) -> list[tuple[int, float]]:
        return sorted(self.percentiles_ms.get(name, {}).items())


def pooled(parts: Sequence[RequestTimes | RepeatTimes], limits_ms: Mapping[str, float]) -> Share:
    """The share over several repeats together.

    Raises:
        ValueError: no repeats.
    """
    if not parts:
        raise ValueError("no repeats to pool")
    shares = [part.share(limits_ms) for part in parts]
    requests = sum(share.requests for share in shares)
    low = sum(share.low * share.requests for share in shares) / requests
    return Share(low, sum(share.high * share.requests for share in shares) / requests, requests)


def least_limit_ms(
    parts: Sequence[RequestTimes | RepeatTimes], limits_ms: Mapping[str, float], name: str, wanted: float
) -> float | None:
    """The strictest limit of one name at which, the others as they are, a share of `wanted` can be shown; else None."""
    seen = sorted({value for part in parts for value in part.seen_ms(name)})
    low, high = 0, len(seen)
    while low < high:
        middle = (low + high) // 2
        if pooled(parts, {**limits_ms, name: seen[middle]}).low >= wanted:
            high = middle
        else:
            low = middle + 1
    return seen[low] if low < len(seen) else None
