"""From a result to what many clients at once get: rows, the knee of each plan, and a batch against singles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from common.analysis.scaling.rivals import batch_gain, ratio_of
from common.analysis.scaling.rows import is_steady, samples
from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.knee import Knee, LoadPoint, Saturation, knee, saturation
from common.core.stats import Estimate, geometric_mean
from common.store.schema import Case, Result

CURVES, BATCHES = ("closed", "open"), ("batch", "batch-offline")
FEWEST_FOR_P99 = 100
GOOD_ENOUGH = 0.9


@dataclass(frozen=True)
class ConcurrencyRow:
    """One line of the concurrency table; what was not measured is None.

    `load` is clients, or requests per second where they come by the clock. Times are milliseconds and means over
    repeats of each repeat's percentile; `thin`: a p99 rests on fewer than 100 requests.
    """

    case: Case
    who: str  # the plan, or `server`
    load: float
    throughput: Estimate  # output tokens per second
    e2el_ms: float | None
    ttft_ms: float | None
    ttft_p99_ms: float | None
    tpot_ms: float | None
    tpot_p99_ms: float | None
    good_fraction: float | None
    queue_ms: float | None
    waiting: float | None
    fairness: float | None
    thin: bool
    steady: bool


@dataclass(frozen=True)
class Found:
    """A plan's closed loops, the fewest clients first, and where more of them stop paying."""

    who: str
    rows: list[ConcurrencyRow]
    knee: Knee | None
    saturation: Saturation


@dataclass(frozen=True)
class BatchRow:
    """The same prompts as a batch against singles at once: the ratio of their output throughputs.

    One request and the singles take turns under one engine start: one sample per pair. The offline batch has an engine
    of its own: means are compared.
    """

    who: str
    way: Literal["one request", "offline batch"]
    requests: int
    gain: Estimate

    @property
    def unresolved(self) -> bool:
        """Whether the interval does not tell a difference from none."""
        return self.gain.unresolved


def who(case: Case) -> str:
    """What was measured: a plan; of somebody else's server no plan is known."""
    return case.id.partition("/")[0]


def concurrency_cases(result: Result) -> list[Case]:
    """The cases that the concurrency table and its sentences compare."""
    return [case for case in result.cases if case.curve in (*CURVES, *BATCHES)]


def concurrency_rows(result: Result, curve: str) -> list[ConcurrencyRow]:
    """The measured cases of a curve, plan after plan, ascending in load; over steady windows where all have one."""
    measured = [
        case
        for case in result.cases
        if case.curve == curve and case.status == "ok" and samples(case, "output_throughput")
    ]
    steady = all(is_steady(case) for case in measured)
    order = list(dict.fromkeys(who(case) for case in measured))
    return [_row(case, steady) for case in sorted(measured, key=lambda case: (order.index(who(case)), _load(case)))]


def found(result: Result) -> list[Found]:
    """The knee of every plan, from closed loops whose client can be believed."""
    rows = concurrency_rows(result, "closed")
    return [_found([row for row in rows if row.who == name]) for name in dict.fromkeys(row.who for row in rows)]


def batch_rows(result: Result) -> list[BatchRow]:
    """Both kinds of batch against singles, for every plan whose client can be believed."""
    singles = [case for case in result.cases if case.curve == "batch" and not case.is_invalid]
    offline = [case for case in result.cases if case.curve == "batch-offline"]
    return [row for case in singles for row in _batch_rows(case, offline)]


def slo_of(result: Result) -> dict[str, float]:
    """The limits that requests were held to, in milliseconds by name."""
    repeats = [repeat for case in result.cases for repeat in case.repeats]
    names = [name for name in ("ttft", "tpot", "e2el") if any(f"slo_{name}_ms" in repeat for repeat in repeats)]
    return {name: next(repeat[key] for repeat in repeats if (key := f"slo_{name}_ms") in repeat) for name in names}


def most_within_limits(rows: Sequence[ConcurrencyRow]) -> ConcurrencyRow | None:
    """The largest load at which nine requests of ten met every limit, and at all lower ones too."""
    best = None
    for row in rows:
        if row.good_fraction is None or row.good_fraction < GOOD_ENOUGH:
            return best
        best = row
    return best


def _found(rows: list[ConcurrencyRow]) -> Found:
    points = [point for row in rows if not row.case.is_invalid for point in _point(row)]
    at = knee(points)
    return Found(rows[0].who, rows, at and _with_gaps(at, points, rows), saturation(points))


def _with_gaps(at: Knee, points: Sequence[LoadPoint], rows: Sequence[ConcurrencyRow]) -> Knee:
    """A load beside the knee that was tried and cannot be believed may be the knee itself."""
    known = [point.load for point in points]
    low = max((load for load in known if load < at.between[0]), default=0.0)
    high = min((load for load in known if load > at.between[1]), default=float("inf"))
    gaps = [row.load for row in rows if row.load not in known and low < row.load < high]
    if not gaps:
        return at
    between = (min(at.between[0], *gaps), max(at.between[1], *gaps))
    return replace(at, between=between, resolved=False, why_not=at.why_not or "a load beside it is INVALID")


def _point(row: ConcurrencyRow) -> list[LoadPoint]:
    prefix = "steady_" if row.steady else ""
    rates = samples(row.case, f"{prefix}output_throughput")
    response_s = [value / 1e3 for value in samples(row.case, f"{prefix}mean_e2el_ms") if value > 0]
    return [LoadPoint(row.load, rates, response_s)] if len(rates) == len(response_s) and min(rates) > 0 else []


def _batch_rows(case: Case, offline: Sequence[Case]) -> list[BatchRow]:
    """As one request, from the pairs that the case holds; offline, where the same plan did the same work so."""
    rows = []
    if gain := batch_gain(case):
        rows.append(BatchRow(who(case), "one request", case.workload.requests, gain))
    for other in offline:
        alike = (other.plan, other.workload) == (case.plan, case.workload) and case.status == other.status == "ok"
        if alike and (gain := ratio_of(other, case, "output_throughput")):
            rows.append(BatchRow(who(case), "offline batch", case.workload.requests, gain))
    return rows


def _load(case: Case) -> float:
    match case.arrivals:
        case ClosedLoop(concurrency):
            return concurrency
        case OpenLoop(rate_per_s):
            return rate_per_s
    return 0.0


def _row(case: Case, steady: bool) -> ConcurrencyRow:
    prefix = "steady_" if steady else ""
    requests = min(repeat.get("steady_requests" if steady else "completed", 0.0) for repeat in case.repeats)

    def mean(name: str) -> float | None:
        values = samples(case, name)
        return sum(values) / len(values) if values else None

    return ConcurrencyRow(
        case,
        who(case),
        _load(case),
        geometric_mean("output_throughput", "tok/s", samples(case, f"{prefix}output_throughput")),
        e2el_ms=mean(f"{prefix}mean_e2el_ms"),
        ttft_ms=mean(f"{prefix}p50_ttft_ms"),
        ttft_p99_ms=mean(f"{prefix}p99_ttft_ms"),
        tpot_ms=mean(f"{prefix}p50_tpot_ms"),
        tpot_p99_ms=mean(f"{prefix}p99_tpot_ms"),
        good_fraction=mean("good_fraction"),
        queue_ms=mean("mean_queue_ms"),
        waiting=mean("max_requests_waiting"),
        fairness=mean("slot_fairness"),
        thin=requests < FEWEST_FOR_P99,
        steady=steady,
    )
