"""What can be doubted about a comparison: a starved base, drift, unequal settings or weights, cases that disagree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from common.analysis.scaling.rows import (
    CURVES,
    ScalingRow,
    by_model,
    kv_cache_tokens,
    samples,
    scaling_rows,
    shape_of,
)
from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.stats import student_quantile
from common.core.weight_split import plan_parameters
from common.store.schema import Case, Result

DRIFT_WITHIN = 0.05
SAME_WORK_WITHIN = 0.10
WEIGHTS_WITHIN = 0.10


def doubts(result: Result) -> list[str]:
    """One sentence for everything that the comparison's reader should know before believing it."""
    of_parts = (_starved_base, _drift, _settings, _weights, _disagreement)
    return list(dict.fromkeys(line for part in by_model(result) for find in of_parts for line in find(part)))


def _starved_base(result: Result) -> Iterator[str]:
    """A base that waits for KV cache makes every larger plan look faster than parallelism does."""
    for base in (row for row in scaling_rows(result) if row.is_base):
        room, preempted = room_for(base.case), _preemptions(base.case)
        starved = room is not None and room < base.load
        if starved or preempted:
            why = [f"room for {room} of {base.load} sequences"] if starved else []
            why += [f"{preempted:.0f} preemptions"] if preempted else []
            yield (
                f"The base {base.case.plan} was short of KV cache ({base.curve}, {' and '.join(why)}): part of every"
                " gain over it is memory, not parallelism; the pinned rows (--curves pinned) tell the two apart."
            )


def room_for(case: Case) -> int | None:
    """How many whole requests of the case the KV cache holds; `None` where its size is unknown."""
    tokens = kv_cache_tokens(case)
    return None if tokens is None else tokens // (case.workload.input_tokens + case.workload.output_tokens)


def _preemptions(case: Case) -> float:
    return sum(repeat.get("preemptions", 0.0) for repeat in case.repeats)


def _drift(result: Result) -> Iterator[str]:
    """The base is started first, in every round and last: a trend over its starts, or a last one apart, is no noise."""
    for base in (row.case for row in scaling_rows(result) if row.is_base):
        rates = samples(base, "output_throughput")
        if len({repeat["start"] for repeat in base.repeats}) < 3 or min(rates) <= 0:
            continue
        *before, last = np.log(rates)
        apart = last - float(np.mean(before))
        spread = float(np.std(before, ddof=1)) * math.sqrt(1 + 1 / len(before))
        if abs(apart) > max(DRIFT_WITHIN, student_quantile(len(before) - 1) * spread):
            yield (
                f"The machine changed during the run: {base.id}, measured again at the end, is {math.expm1(apart):+.1%}"
                " from its earlier starts."
            )
            continue
        (slope, _), covariance = np.polyfit(range(len(rates)), np.log(rates), 1, cov=True)
        margin = student_quantile(len(rates) - 2) * math.sqrt(covariance[0, 0])
        change = slope * (len(rates) - 1)
        if abs(change) > DRIFT_WITHIN and abs(slope) > margin:
            yield f"The machine changed during the run: {base.id} drifts by {math.expm1(change):+.1%} over its starts."


def _settings(result: Result) -> Iterator[str]:
    """Settings that vLLM resolved differently for different plans: they would not be doing the same work."""
    seen: dict[str, dict[str, str]] = {}
    for case in (case for case in result.cases if case.curve in CURVES):  # other cases change settings on purpose
        for name, value in case.engine.get("settings", {}).items():
            seen.setdefault(name, {})[str(case.plan)] = str(value)
    for name, values in seen.items():
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{value} ({plan})" for plan, value in values.items())
            yield f"Plans ran with different settings: {name} is {shown}."


def _weights(result: Result) -> Iterator[str]:
    """Splitting a model must split its weights: device memory cannot show that, vLLM fills the same share of all."""
    per_rank: dict[tuple[int, str], tuple[Case, list[int]]] = {}
    for case in result.cases:
        weights = case.engine.get("weight_bytes_per_rank") or []
        if weights:
            per_rank.setdefault((case.plan.tp * case.plan.pp, str(case.plan)), (case, weights))
    whole = next((max(weights) for (parts, _), (_, weights) in per_rank.items() if parts == 1), None)
    for (parts, plan), (case, weights) in per_rank.items():
        share = _fullest_share(case, result) or 1 / parts
        if whole and parts > 1 and max(weights) > whole * share * (1 + WEIGHTS_WITHIN):
            yield (
                f"{plan} does not split the weights as it should: a rank holds {max(weights) / whole:.0%} of them,"
                f" not {share:.0%}."
            )


def _fullest_share(case: Case, result: Result) -> float | None:
    """What part of the model the plan's fullest rank should hold; both ends of a pipeline hold a tied embedding."""
    shape = shape_of(case, result)
    if shape is None:
        return None
    return max(plan_parameters(shape, case.plan)) / max(plan_parameters(shape, ParallelPlan()))


def _disagreement(result: Result) -> Iterator[str]:
    """The same work measured as two cases of one run must come out alike."""
    done = [row for row in scaling_rows(result) if row.throughput is not None and row.curve != "pinned"]
    for one, other in combinations(done, 2):
        if _same_work(one, other) and one.throughput and other.throughput:
            share = other.throughput.value / one.throughput.value - 1
            if abs(share) > SAME_WORK_WITHIN:
                yield (
                    f"{one.case.id} and {other.case.id} are the same work and differ by {share:+.0%}: believe neither"
                    " to better than that (--preset lab takes more starts)."
                )


def _same_work(one: ScalingRow, other: ScalingRow) -> bool:
    same_plan = one.case.plan == other.case.plan and one.steady == other.steady
    closed = isinstance(one.case.arrivals, ClosedLoop) and one.case.arrivals == other.case.arrivals
    lengths = [(row.case.workload.input_tokens, row.case.workload.output_tokens) for row in (one, other)]
    return same_plan and closed and lengths[0] == lengths[1]
