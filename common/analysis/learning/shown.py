"""What one result shows of an item of the checklist: a figure, or else what is missing in it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from common.analysis.concurrency.rows import who
from common.analysis.fairness.reading import compared, mixes, variant_of
from common.analysis.learning.evidence import Shown
from common.analysis.plans.goals import GOALS, recommend
from common.analysis.scaling.rows import ScalingRow, by_model, samples, scaling_cases, scaling_rows
from common.analysis.wording import interval, machine, streams
from common.core.arrivals import ClosedLoop
from common.core.knee import FEWEST_POINTS
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.core.stats import ratio
from common.store.schema import Case, Result

NAMED = 4  # INVALID cases; the result's own table marks them all


def verified_plans(result: Result) -> list[ParallelPlan]:
    """Plans that split the model over several devices, and whose cases all passed all their checks."""
    plans = dict.fromkeys(case.plan for case in result.cases if case.plan.tp > 1 and case.status != "skipped")
    return [plan for plan in plans if _passed([case for case in result.cases if case.plan == plan])]


def _passed(cases: list[Case]) -> bool:
    checks = [check.passed for case in cases for check in case.checks]
    return all(case.status == "ok" for case in cases) and bool(checks) and all(checks)


def shows_devices(result: Result) -> Shown:
    """Which devices, where there are several."""
    count = len(result.environment.get("devices", []))
    return Shown(machine(result)) if count > 1 else Shown(missing=f"measured on {plural(count, 'device')}")


def shows_verification(result: Result) -> Shown:
    """The plans over several devices that passed, or the first check that did not."""
    plans = verified_plans(result)
    if plans:
        return Shown(", ".join(f"{plan} passed" for plan in plans))
    failed = [
        f"{case.id}: {check.name}: {check.detail}"
        for case in result.cases
        for check in case.checks
        if case.plan.tp > 1 and check.passed is False
    ]
    return Shown(missing=f"no plan over several devices passed{f' ({failed[0]})' if failed else ''}")


def shows_concurrency(result: Result) -> Shown:
    """How far a plan, or a server, was loaded, and where it gave most."""
    best: dict[str, dict[int, float]] = {}
    for case in result.cases:
        rates = samples(case, "output_throughput")
        if case.status != "ok" or not isinstance(case.arrivals, ClosedLoop) or case.is_invalid:
            continue
        if max(rates, default=0.0) > 0:  # where every request failed no token came
            best.setdefault(who(case), {})[case.arrivals.concurrency] = max(rates)
    for name, rates_at in best.items():
        if len(rates_at) >= FEWEST_POINTS:
            most = max(rates_at, key=lambda count: rates_at[count])
            return Shown(
                f"{name}: {min(rates_at)} to {streams(max(rates_at))}, most {rates_at[most]:.0f} tok/s at {most}"
            )
    closed = [case for case in result.cases if isinstance(case.arrivals, ClosedLoop)]
    return _missing(closed, f"nothing was measured at {FEWEST_POINTS} concurrencies, which a knee takes")


def shows_mixed_load(result: Result) -> Shown:
    """The largest change that one engine's setting made beside another's, for short requests or for long ones."""
    for words, case, _, made in compared(result):
        change = max(made, key=lambda one: abs(math.log(one.ratio.value)))
        unresolved = ", unresolved" if change.unresolved else ""
        said = f"{change.request_class} requests' {change.name} {interval(change.ratio)}x{unresolved}"
        return Shown(f"{case.plan}, {words[0].lower()}{words[1:]}: {said}")
    measured = ", ".join(dict.fromkeys(variant_of(case) for case in mixes(result))) or "none"
    return _missing(mixes(result), f"no two engines could be compared (measured: {measured})")


def shows_scaling(result: Result) -> Shown:
    """The largest speed-up and efficiency, where more than one curve was measured."""
    rows = _split_rows(result)
    curves = {row.curve for row in rows}
    if len(curves) < 2:
        only = f"only the {next(iter(curves))} curve was" if curves else "no plan over several devices was"
        others = [case for case in scaling_cases(result) if case.curve not in curves]
        return _missing(_where_split(others), f"{only} measured")
    row = max((row for row in rows if row.curve != "weak"), key=_gain, default=rows[0])
    assert row.speedup is not None and row.efficiency is not None
    return Shown(f"{row.case.plan} {interval(row.speedup)}x, {row.efficiency.value:.0%} of each device ({row.curve})")


def shows_comparison(result: Result) -> Shown:
    """What several devices give beside one under the same load, in tokens and in waiting."""
    rows = scaling_rows(result)
    for row in sorted(_split_rows(result), key=_gain, reverse=True):
        base = next((one for one in rows if one.is_base and (one.curve, one.load) == (row.curve, row.load)), None)
        if row.curve != "fixed" or base is None or base.case.plan.devices > 1:
            continue
        waits = [samples(one.case, "median_ttft_ms") for one in (row, base)]
        wait = f", {ratio('', 'x', *waits).value:.2f}x the wait" if all(waits) else ""
        assert row.speedup is not None
        return Shown(
            f"{row.case.plan} against {base.case.plan} at {streams(row.load)}: {interval(row.speedup)}x the tokens"
            f"{wait}{', unresolved' if row.unresolved else ''}"
        )
    fixed = [case for case in result.cases if case.curve == "fixed"]
    return _missing(_where_split(fixed), "no single device stands beside several at the same load")


def shows_plans(result: Result) -> Shown:
    """Which plan is best for what, where at least two ways to use the same devices were measured."""
    own = by_model(result)[0]
    measured = {case.plan for case in own.cases if case.status == "ok" and case.repeats}
    alike = [plan for plan in measured if plan.devices > 1 and any(_rivals(plan, other) for other in measured)]
    chosen = {goal: recommend(own, goal) for goal in GOALS}
    best = [f"{found.plan} for {goal}" for goal, found in chosen.items() if found is not None]
    if not alike or not best:
        return Shown(missing="no two plans for the same devices were measured")
    return Shown(f"{plural(len(measured), 'plan')}; best: {', '.join(best)}")


def _missing(cases: Iterable[Case], otherwise: str) -> Shown:
    """What was measured and is INVALID is not missing for want of measuring: it is said first."""
    invalid = [case for case in cases if case.is_invalid]
    if not invalid:
        return Shown(missing=otherwise)
    named = ", ".join(case.id for case in invalid[:NAMED])
    more = f" and {len(invalid) - NAMED} more" if len(invalid) > NAMED else ""
    client = invalid[0].client
    assert client is not None, "it is INVALID"
    return Shown(missing=f"the client was INVALID in {named}{more}; {client.remedy or 'measure again'}")


def _where_split(cases: list[Case]) -> list[Case]:
    """Cases of the curves that a plan over several devices was measured on: elsewhere no client decides anything."""
    curves = {case.curve for case in cases if case.plan.tp > 1 and case.repeats}
    return [case for case in cases if case.curve in curves]


def _rivals(plan: ParallelPlan, other: ParallelPlan) -> bool:
    return plan != other and plan.devices == other.devices


def _split_rows(result: Result) -> list[ScalingRow]:
    rows = [row for row in scaling_rows(result) if row.speedup is not None and row.efficiency is not None]
    return [row for row in rows if row.case.plan.tp > 1 and row.case.plan.devices > 1]


def _gain(row: ScalingRow) -> float:
    return row.speedup.value if row.speedup else 0.0
