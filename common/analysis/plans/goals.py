"""Which plan to take for which goal, and by which measured number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from common.analysis.plans.points import Point, plan_points, started
from common.analysis.scaling.rows import ScalingRow, fair_rows, kv_cache_tokens, samples
from common.analysis.wording import streams
from common.core.plan import ParallelPlan
from common.core.stats import ratio
from common.store.schema import Case, Result

Goal = Literal["throughput", "memory", "development"]
GOALS: tuple[Goal, ...] = get_args(Goal)
ANSWERS_A_START = 10  # of one stream, before somebody who develops starts the engine anew
SAME_START_WITHIN = 0.10
SAME_WEIGHTS_WITHIN = 0.02  # norms and padding are not what a plan is chosen for


@dataclass(frozen=True)
class Recommendation:
    """A plan for a goal; `rivals` are plans that this result does not tell apart from it in the deciding number."""

    goal: Goal
    plan: ParallelPlan
    reason: str
    rivals: tuple[ParallelPlan, ...] = ()


def recommend(result: Result, goal: Goal) -> Recommendation | None:
    """The plan for a goal from the measured plans of one model; None where the deciding number was not measured."""
    return _RULES[goal](result)


def _throughput(result: Result) -> Recommendation | None:
    """Most output tokens per second at any load that was measured, from all devices of the plan together."""
    rows = fair_rows(result)
    best = max(rows, key=_rate, default=None)
    if best is None:
        return None
    alike = [row for row in rows if (row.curve, row.load) == (best.curve, best.load)]
    rivals = tuple(row.case.plan for row in alike if row is not best and _not_told_apart(row.case, best.case))
    others = [row for row in rows if row.case.plan != best.case.plan]
    second = max(others, key=_rate, default=None)
    reason = f"{_rate(best):.0f} tok/s at {streams(best.load)}, the most of all plans and loads"
    if second is not None:
        reason += f"; next is {second.case.plan} with {_rate(second):.0f} at {streams(second.load)}"
    return Recommendation("throughput", best.case.plan, reason, rivals)


def _memory(result: Result) -> Recommendation | None:
    """Fewest weight bytes on the fullest device; of plans alike in that, most KV cache per device."""
    weights = {
        plan: max(case.engine["weight_bytes_per_rank"])
        for plan, case in started(result).items()
        if max(case.engine.get("weight_bytes_per_rank") or [0]) > 0
    }
    if not weights:
        return None
    least = min(weights.values())
    alike = [plan for plan, held in weights.items() if held <= least * (1 + SAME_WEIGHTS_WITHIN)]
    kv = {plan: (kv_cache_tokens(started(result)[plan]) or 0) / plan.devices for plan in alike}
    plan = max(alike, key=lambda one: (kv[one], -weights[one]))
    most = max(weights.values())
    reason = f"{weights[plan] / 1e6:.0f} MB of weights on its fullest device"
    reason += f", where a device holds up to {most / 1e6:.0f} MB under other plans" if most > weights[plan] else ""
    reason += f", and {kv[plan]:.0f} tokens of KV cache per device" if kv[plan] else ""
    rivals = tuple(one for one in alike if one != plan and kv[one] >= kv[plan] * (1 - SAME_WEIGHTS_WITHIN))
    return Recommendation("memory", plan, reason, rivals)


def _development(result: Result) -> Recommendation | None:
    """Least time from a start to the last of ten answers, one after another: who develops starts often and asks little.

    A start-up is measured once or a few times: of plans within a tenth of the shortest the one on fewest devices.
    """
    points = plan_points(result)
    lightest = min((point.streams for point in points), default=0.0)
    rounds_s = {plan: _round_s(case, plan, points, lightest) for plan, case in started(result).items()}
    known_s = {plan: seconds for plan, seconds in rounds_s.items() if seconds is not None}
    if not known_s:
        return None
    alike = [plan for plan, seconds in known_s.items() if seconds <= min(known_s.values()) * (1 + SAME_START_WITHIN)]
    plan = min(alike, key=lambda one: (one.devices, known_s[one]))
    longest = max(known_s, key=lambda one: known_s[one])
    startup_s = started(result)[plan].engine["startup_s"]
    reason = f"up in {startup_s:.0f} s and {ANSWERS_A_START} answers done after {known_s[plan]:.0f} s"
    reason += f", on {plan.devices} device{'' if plan.devices == 1 else 's'}"
    reason += f"; {longest} takes {known_s[longest]:.0f} s" if longest not in alike else ""
    return Recommendation("development", plan, reason, tuple(one for one in alike if one != plan))


def _round_s(case: Case, plan: ParallelPlan, points: list[Point], lightest: float) -> float | None:
    """Seconds of a start and ten answers at the lightest load; None where either was not measured."""
    startup_s = case.engine.get("startup_s")
    alone = next((point for point in points if point.plan == plan and point.streams == lightest), None)
    return None if startup_s is None or alone is None else float(startup_s) + ANSWERS_A_START * alone.latency_s


def _not_told_apart(one: Case, other: Case) -> bool:
    """Whether the interval of the ratio of two cases' throughputs is missing, or holds 1."""
    return ratio("", "x", samples(one, "output_throughput"), samples(other, "output_throughput")).unresolved


def _rate(row: ScalingRow) -> float:
    return row.throughput.value if row.throughput else 0.0


_RULES: Mapping[Goal, Callable[[Result], Recommendation | None]] = {
    "throughput": _throughput,
    "memory": _memory,
    "development": _development,
}
