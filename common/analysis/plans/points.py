"""Every plan at every load as a point: what a user waits, and what a device earns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.analysis.scaling.rows import fair_rows
from common.core.pareto import pareto_front
from common.core.plan import ParallelPlan
from common.store.schema import Case, Result

BEST_LAST = ("weak", "fixed", "saturated")  # of two cases with the same load the later one counts


@dataclass(frozen=True)
class Point:
    """A plan under a load: the median request's seconds, and tokens per second over the plan's devices."""

    plan: ParallelPlan
    streams: float
    latency_s: float
    throughput: float
    case: str  # its id
    on_front: bool = False

    @property
    def per_device(self) -> float:
        """Output tokens per second and device."""
        return self.throughput / self.plan.devices


def plan_points(result: Result) -> list[Point]:
    """The points of one model's result, by plan and load, each marked where no other is at least as good in both.

    Plans that share devices and loads that the client spoilt are left out.
    """
    found: dict[tuple[ParallelPlan, float], Point] = {}
    for row in sorted(fair_rows(result), key=lambda row: BEST_LAST.index(row.curve)):
        if row.throughput is not None and row.e2el_ms is not None:
            key = (row.case.plan, row.load)
            found[key] = Point(*key, row.e2el_ms / 1e3, row.throughput.value, row.case.id)
    points = [found[key] for key in sorted(found, key=lambda key: (*size(key[0]), key[1]))]
    front = set(pareto_front([(point.latency_s, point.per_device) for point in points]))
    return [replace(point, on_front=place in front) for place, point in enumerate(points)]


def started(result: Result) -> dict[ParallelPlan, Case]:
    """One case of every plan whose engine told its facts, the smallest plan first."""
    cases = {case.plan: case for case in result.cases if case.engine}
    return {plan: cases[plan] for plan in sorted(cases, key=size)}


def size(plan: ParallelPlan) -> tuple[int, int, int, ParallelPlan]:
    """Orders plans: by devices, and what splits the model before what copies it."""
    return plan.devices, plan.replicas, plan.dp, plan
