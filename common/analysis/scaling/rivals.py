"""Cases of one result set side by side: a plan and its base, a split model and replicas, a load and the next."""

from __future__ import annotations

from collections.abc import Iterator

from common.analysis.scaling.rows import ScalingRow, samples, scaling_rows
from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.stats import Estimate, geometric_mean, ratio
from common.store.schema import Case, Result

CLOSED = ("ladder", "weak", "fixed", "closed", "saturated")  # curves of closed loops; later ones are measured better
BATCH = "batch_output_throughput"  # of a repeat that sent the same prompts as one request too


def gained_rows(result: Result) -> list[ScalingRow]:
    """Rows with a speed-up over a smaller plan, on devices of their own."""
    return [row for row in scaling_rows(result) if row.speedup is not None and row.efficiency is not None]


def beside_base(result: Result, curve: str) -> Iterator[tuple[ScalingRow, ScalingRow]]:
    """Each row of a curve that was compared, and the base it was compared with."""
    rows = [row for row in scaling_rows(result) if row.curve == curve]
    for row in rows:
        base = next((one for one in rows if one.is_base and one.load == row.load), None)
        if row.speedup is not None and base is not None:
            yield row, base


def against_replicas(result: Result) -> Iterator[tuple[ScalingRow, ScalingRow, Estimate]]:
    """Split model, replicas on as many devices under the same load, and the replicas' throughput over the split's."""
    rows = gained_rows(result)
    for split in (row for row in rows if row.case.plan.tp > 1 and row.case.plan.replicas == 1):
        for copies in rows:
            plan = copies.case.plan
            alike = (plan.devices, copies.curve, copies.load) == (split.case.plan.devices, split.curve, split.load)
            gained = ratio_of(copies.case, split.case, "output_throughput") if alike and plan.replicas > 1 else None
            if gained is not None and plan.tp == 1:
                yield split, copies, gained


def ratio_of(case: Case, base: Case, metric: str) -> Estimate | None:
    """A metric of one case over the same of another, with Welch's interval; `None` where either lacks it."""
    upper, lower = samples(case, metric), samples(base, metric)
    return ratio(metric, "x", upper, lower) if upper and lower and min(*upper, *lower) > 0 else None


def batch_gain(case: Case) -> Estimate | None:
    """The batch's throughput over that of singles, pair by pair; over starts where there are several."""
    ratios: dict[float, list[float]] = {}
    for repeat in case.repeats if case.status == "ok" else []:
        one, singles = repeat.get(BATCH, 0.0), repeat.get("output_throughput", 0.0)
        if one > 0 and singles > 0:
            ratios.setdefault(repeat["start"], []).append(one / singles)
    starts = [geometric_mean("", "x", pairs).value for pairs in ratios.values()]
    pairs = [pair for found in ratios.values() for pair in found]
    return geometric_mean("batch_gain", "x", starts if len(starts) > 1 else pairs) if pairs else None


def loads(result: Result, plan: ParallelPlan) -> list[tuple[int, float, float]]:
    """(streams, tokens per second, median ms to first token) of a plan's closed loops, lightest first.

    They are of one curve, whose loads were measured alike: of those with several loads the one with the heaviest, and
    the better measured one of two. Empty where no curve has several.
    """
    several = [found for curve in reversed(CLOSED) if len(found := _loads_of(result, plan, curve)) > 1]
    return max(several, key=lambda found: found[-1][0], default=[])


def busy_share(case: Case) -> float | None:
    """Mean utilisation of the plan's devices; `None` where nobody watched."""
    kinds = ("gpu", "cpu")
    for kind in kinds:
        found = [share for name, share in case.monitor.items() if _is_device(name, kind)]
        if found:
            return sum(found) / len(found)
    return None


def _loads_of(result: Result, plan: ParallelPlan, curve: str) -> list[tuple[int, float, float]]:
    found: dict[int, tuple[int, float, float]] = {}
    for case in result.cases:
        if (case.curve, case.plan, case.status) != (curve, plan, "ok") or not isinstance(case.arrivals, ClosedLoop):
            continue
        rates, waits = samples(case, "output_throughput"), samples(case, "median_ttft_ms")
        if rates and waits and min(*rates, *waits) > 0:
            count = case.arrivals.concurrency
            rate, wait_ms = (geometric_mean("", "", values).value for values in (rates, waits))
            found[count] = (count, rate, wait_ms)
    return [found[count] for count in sorted(found)]


def _is_device(name: str, kind: str) -> bool:
    digits = name.removeprefix(kind).removesuffix("_utilisation_mean")
    return name == f"{kind}{digits}_utilisation_mean" and digits.isdecimal()
