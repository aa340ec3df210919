"""Which part of their repeats a table's numbers are of, and what that makes of them, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.analysis.scaling.rows import ScalingRow
from common.core.arrivals import ClosedLoop
from common.core.plural import plural
from common.core.verdict import SLOTS_DOUBTFUL
from common.store.schema import Case

STEADY = "the steady window: between every slot's first full turn and the first idle slot"
WHOLE = (
    "whole repeats: all clients begin at once, so the first prompts wait for each other, and the last answers run"
    " alone; five requests per client or more let the time between be measured"
)
IDLE = 0.05  # of the streams' time; less is what every short run loses


def windows(rows: Sequence[ScalingRow]) -> Iterator[str]:
    """What the numbers of closed loops are of; one request per client, and streams that stood idle, are named."""
    closed = [row for row in rows if row.throughput is not None and isinstance(row.case.arrivals, ClosedLoop)]
    steady = _names(row for row in closed if row.steady)
    whole = _names(row for row in closed if not row.steady and row.load > 1)
    if steady and whole:
        yield f"Numbers of {steady} are of {STEADY}."
        yield f"Numbers of {whole} are of {WHOLE}."
    elif steady or whole:
        yield f"Numbers are of {STEADY if steady else WHOLE}."
    if burst := _names(row for row in closed if row.load > 1 and row.case.workload.requests <= row.load):
        yield (
            f"One request per client in {burst}: each repeat is one burst. TTFT is the wait while the prompts of all"
            " are read, tok/s is that of one batch, its start and end included."
        )
    idle = {row.case.id: share for row in closed if not row.steady and (share := _idle(row.case)) > IDLE}
    if idle:
        listed = ", ".join(f"{case} {share:.0%}" for case, share in idle.items())
        yield f"Streams stood idle while the last answers ran, and tok/s is lower for it: {listed} of the time."


def _names(rows: Iterator[ScalingRow]) -> str:
    """`fixed at 16 streams, saturated`: rows that are compared share a name."""
    return ", ".join(
        dict.fromkeys(f"fixed at {plural(row.load, 'stream')}" if row.curve == "fixed" else row.curve for row in rows)
    )


def _idle(case: Case) -> float:
    """Requests missing from the streams on average (Little's law); 0 where another reason than a repeat's end is known.

    A client that leaves slots empty has a verdict of its own, and a failed request's time is not known.
    """
    if not isinstance(case.arrivals, ClosedLoop) or case.is_invalid:
        return 0.0
    shares = [
        1 - repeat["request_throughput"] * repeat["mean_e2el_ms"] / 1e3 / case.arrivals.concurrency
        for repeat in case.repeats
        if {"request_throughput", "mean_e2el_ms"} <= repeat.keys()
        and not repeat.get("failed")
        and repeat.get("slots_in_flight_share", 1.0) >= SLOTS_DOUBTFUL
    ]
    return sum(shares) / len(shares) if shares else 0.0
