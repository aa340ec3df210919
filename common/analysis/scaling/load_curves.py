"""Throughput over concurrency: where each plan stops gaining from more load."""

from __future__ import annotations

from dataclasses import dataclass

from common.analysis.scaling.rows import samples
from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.stats import Estimate, geometric_mean
from common.store.schema import Case, Result

LIKE_ALONE = ("weak", "fixed")  # curves whose engines are as the plan alone would have them


@dataclass(frozen=True)
class Load:
    """A plan's throughput at one concurrency."""

    streams: int
    throughput: Estimate


@dataclass(frozen=True)
class LoadCurve:
    """A plan's throughput over concurrency; `saturated` is None where no client to be believed drove the plan there."""

    plan: ParallelPlan
    loads: list[Load]
    saturated: Load | None
    still_gaining: bool  # the steepest load tried still paid, so the plan's limit was not seen


def load_curves(result: Result) -> list[LoadCurve]:
    """Throughput over concurrency of every plan, smallest plan first; repeated cases outrank single rungs."""
    plans = sorted({case.plan for case in result.cases}, key=lambda plan: (plan.devices, plan.replicas, plan))
    curves = [_load_curve([case for case in result.cases if case.plan == plan]) for plan in plans]
    return [curve for curve in curves if curve is not None]


def _load_curve(cases: list[Case]) -> LoadCurve | None:
    loads: dict[int, Load] = {}
    saturated, highest_tried = None, 0
    for curve in ("ladder", *LIKE_ALONE, "saturated"):  # later ones win
        for case in cases:
            rates = samples(case, "output_throughput")
            if case.curve != curve or case.status != "ok" or not rates or not isinstance(case.arrivals, ClosedLoop):
                continue
            load = Load(case.arrivals.concurrency, geometric_mean("output_throughput", "tok/s", rates))
            loads[load.streams] = load
            saturated = load if curve == "saturated" and not case.is_invalid else saturated
            highest_tried = max(highest_tried, load.streams) if curve in ("ladder", "saturated") else highest_tried
    if not loads:
        return None
    gaining = saturated is not None and saturated.streams >= highest_tried
    return LoadCurve(cases[0].plan, [loads[count] for count in sorted(loads)], saturated, gaining)
