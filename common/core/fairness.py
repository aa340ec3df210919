"""How evenly requests are served: identical clients among each other, a class beside others against itself alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.core.record import RequestRecord

STARVED = 10.0  # a first token that comes later than this many times the p99 alone
FEWEST_FOR_P99 = 100  # with fewer requests it is the maximum, or nearly

# The numbers of one class, `C`, in one repeat; a class that ran alone has them with `alone_` before. Milliseconds.
#   C_requests, C_failed            how many were sent, and how many have no complete answer
#   C_pP_ttft_ms, C_pP_e2el_ms      percentiles P = 50, 99 from the intended send time; failed requests at infinity
#   C_p99_itl_ms, C_max_itl_ms      gaps between the chunks of answers: how long a running answer stood still
# and of the class beside others only:
#   C_pP_ttft_slowdown, C_pP_e2el_slowdown   each request over the class's median alone
#   C_p99_ttft_over_alone, C_p99_e2el_over_alone, C_max_itl_over_alone   the figure together over the same alone
#   C_jain                          Jain's index over the class's requests, of 1/slowdown: the share of its speed alone
#   C_starved                       requests whose first token came after ten times the p99 alone
# What is infinite (failed requests), or has no value alone to be held against, is absent; C_failed then says why.


def latencies_s(records: Sequence[RequestRecord], metric: str) -> list[float]:
    """TTFT (`ttft`) or E2EL (`e2el`) of every request from its intended send time; infinite where it failed.

    A client that sends late must not make the server look fast.
    """
    place = {"ttft": 0, "e2el": -1}[metric]
    return [
        (record.chunk_ns[place] - record.intended_ns) / 1e9
        if record.ok and record.chunk_ns and record.intended_ns is not None
        else math.inf
        for record in records
    ]


def slowdowns(together_s: Sequence[float], alone_s: Sequence[float]) -> list[float]:
    """Each request over the median of its class alone; empty where that median is unknown (no or failed requests).

    Raises:
        ValueError: a latency that is not positive.
    """
    if min((*together_s, *alone_s), default=1.0) <= 0:
        raise ValueError("latencies must be positive")
    median_s = percentile(alone_s, 50)
    if median_s is None or math.isinf(median_s):
        return []
    return [value / median_s for value in together_s]


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index (sum x)^2 / (n * sum x^2): 1 where all are equal, 1/n where one has everything.

    R. Jain, D. Chiu, W. Hawe, DEC-TR-301 (1984). `None` for fewer than two shares, and where nobody has any.

    Raises:
        ValueError: a negative share.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.size and values.min() < 0:
        raise ValueError(f"a share is 0 or more, not {values.min()}")
    if len(values) < 2 or not values.any():
        return None
    return float(values.sum() ** 2 / (len(values) * np.square(values).sum()))


def slot_tokens(records: Sequence[RequestRecord], slots: int) -> list[float] | None:
    """Output tokens that each slot of a closed loop received before the first of them had nothing left to send.

    A request's tokens are spread evenly over its chunks. `None` where a request was never sent or has no slot, or
    failed: what its slot would have received is then not known.
    """
    ends = [record.ended_ns for record in records if record.ended_ns is not None]
    whole = len(ends) == len(records) and all(record.ok and record.slot is not None for record in records)
    if not whole or len(records) < slots:
        return None
    until_ns = sorted(ends)[-slots]
    received = [0.0] * slots
    for record in records:
        if record.slot is not None and record.chunk_ns:
            came = sum(stamp_ns <= until_ns for stamp_ns in record.chunk_ns)
            received[record.slot] += (record.output_tokens or 0) * came / len(record.chunk_ns)
    return received


def starved(ttft_s: Sequence[float], alone_s: Sequence[float]) -> int | None:
    """Requests whose first token came later than ten times the p99 alone, or never; `None` without a p99 alone."""
    limit_s = percentile(alone_s, 99)
    if limit_s is None or math.isinf(limit_s):
        return None
    return sum(value > STARVED * limit_s for value in ttft_s)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between raw samples, as numpy's, and infinite as soon as an infinite sample has a part in it."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    if math.isinf(above):
        return below if place == math.floor(place) else math.inf
    return below + (above - below) * (place - math.floor(place))


def class_numbers(records: Sequence[RequestRecord], name: str) -> dict[str, float]:
    """What one class did in one part of a repeat, whether alone or beside others; keys begin with the class.

    Args:
        records: of any classes; those of others are left out.
        name: the class.
    """
    own = [record for record in records if record.request_class == name]
    numbers: dict[str, float | None] = {
        f"{name}_requests": len(own),
        f"{name}_failed": sum(not record.ok for record in own),
    }
    for metric in ("ttft", "e2el"):
        for percent in (50, 99):
            value_s = percentile(latencies_s(own, metric), percent)
            numbers[f"{name}_p{percent}_{metric}_ms"] = None if value_s is None else 1e3 * value_s
    gaps_ms = [1e3 * gap_s for record in own if record.ok for gap_s in record.itl_s]
    numbers |= {f"{name}_p99_itl_ms": percentile(gaps_ms, 99), f"{name}_max_itl_ms": max(gaps_ms, default=None)}
    return _known(numbers)


def fairness_numbers(together: Sequence[RequestRecord], alone: Sequence[RequestRecord], name: str) -> dict[str, float]:
    """All numbers of a class in one repeat: together, alone, and the one against the other.

    Args:
        together: records of all classes.
        alone: records of the same class's same requests, with the others left out, on the same engine.
        name: the class.
    """
    beside = class_numbers(together, name)
    by_itself = class_numbers(alone, name)
    own = [record for record in together if record.request_class == name]
    compared: dict[str, float | None] = {}
    for metric in ("ttft", "e2el"):
        slowed = slowdowns(latencies_s(own, metric), latencies_s(alone, metric))
        for percent in (50, 99):
            compared[f"{name}_p{percent}_{metric}_slowdown"] = percentile(slowed, percent)
        if metric == "e2el":
            compared[f"{name}_jain"] = jain([1 / value for value in slowed])
    for figure in ("p99_ttft", "p99_e2el", "max_itl"):
        both = [numbers.get(f"{name}_{figure}_ms") for numbers in (beside, by_itself)]
        compared[f"{name}_{figure}_over_alone"] = both[0] / both[1] if both[0] and both[1] else None
    compared[f"{name}_starved"] = starved(latencies_s(own, "ttft"), latencies_s(alone, "ttft"))
    return beside | {f"alone_{key}": value for key, value in by_itself.items()} | _known(compared)


def _known(numbers: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in numbers.items() if value is not None and math.isfinite(value)}
