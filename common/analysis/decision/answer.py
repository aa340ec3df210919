"""The decision as numbers: what every plan carries within the limits, and what the asked rate takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.analysis.decision.loads import Load, Work
from common.core.capacity import Capacity, Need, Prices, least, need
from common.core.plan import ParallelPlan
from common.core.stats import Estimate


@dataclass(frozen=True)
class Question:
    """What is asked: a rate of requests per second, kept within limits, on machines of so many devices and a price."""

    rate: float
    limits_ms: Mapping[str, float]
    machine_devices: int
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True)
class Carried:
    """What one plan was seen to carry.

    `best` is the load with the largest rate to count on among those within the limits (and with every lighter one of
    its kind within them too); `failed` the slowest load that was not, or could not be shown to be. A load that was
    measured once has no interval to count on: it is `best` only where no other is, else, where it is larger, `once`.
    """

    plan: ParallelPlan
    loads: list[Load]
    best: Load | None
    failed: Load | None
    once: Load | None


@dataclass(frozen=True)
class Foretold:
    """What one plan is predicted to carry within the limits; times are means, not those of nine requests of ten."""

    plan: ParallelPlan
    clients: int
    rate: Estimate  # requests per second
    ttft_ms: float  # of a lone request
    tpot_ms: float  # by Little's law, at the low end of the rate


@dataclass(frozen=True)
class LimitTurn:
    """Where a limit, the others as they are, changes the answer: `need` is None where no plan is left."""

    name: str
    limit_ms: float
    stricter: bool
    need: Need | None


def carried(loads: Sequence[Load], limits_ms: Mapping[str, float]) -> list[Carried]:
    """What each plan carries, the smallest plan first."""
    plans = sorted({load.plan for load in loads}, key=lambda plan: (plan.devices, plan))
    return [_carried([load for load in loads if load.plan == plan], limits_ms) for plan in plans]


def capacities(plans: Sequence[Carried], foretold: Sequence[Foretold] = ()) -> list[Capacity]:
    """One per kind of engine: rates to count on by number of engines that were measured together.

    A prediction stands only where nothing of its kind was measured.
    """
    rates: dict[ParallelPlan, dict[int, float]] = {}
    for one in plans:
        if one.best is not None:
            rates.setdefault(replace(one.plan, replicas=1), {})[one.plan.replicas] = one.best.sized
    measured = [Capacity(engine, of_engines) for engine, of_engines in rates.items()]
    tried = {replace(one.plan, replicas=1) for one in plans}
    return measured + [
        Capacity(one.plan, {1: one.rate.low or one.rate.value}, predicted=True)
        for one in foretold
        if one.plan not in tried
    ]


def answer(loads: Sequence[Load], question: Question) -> Need | None:
    """What the rate takes of the measured plan that needs least; None where none keeps the limits."""
    return least(capacities(carried(loads, question.limits_ms)), question.rate, question.machine_devices)


def by_means(plans: Sequence[Carried], chosen: Need, rate: float) -> Need:
    """What the chosen plan would take if the measured rates were exact: what narrower intervals could save."""
    own = {one.plan.replicas: one.best.rate.value for one in _of(plans, chosen) if one.best is not None}
    return need(Capacity(chosen.capacity.engine, own), rate, chosen.machine_devices)


def by_bracket(plans: Sequence[Carried], chosen: Need, rate: float) -> Need | None:
    """What the chosen plan would take at the rates of the loads that failed: measuring between can save no more."""
    rates = {}
    for one in _of(plans, chosen):
        above = [load.rate.value for load in (one.best, one.failed) if load is not None]
        if above:
            rates[one.plan.replicas] = max(above)
    return need(Capacity(chosen.capacity.engine, rates), rate, chosen.machine_devices) if rates else None


def limit_turns(loads: Sequence[Load], question: Question) -> list[LimitTurn]:
    """For every limit, the nearest stricter and the nearest laxer value at which plan or engines become others."""
    now = _outcome(answer(loads, question))
    turns = []
    for name, limit in question.limits_ms.items():
        found = [load.least_limit_ms(question.limits_ms, name) for load in loads]
        edges = sorted({edge for edge in found if edge is not None})
        stricter = [(edge, math.nextafter(edge, 0)) for edge in reversed(edges) if edge <= limit]
        laxer = [(edge, edge) for edge in edges if edge > limit]
        for tried in (stricter, laxer):
            turn = _first_turn(loads, question, name, tried, now)
            if turn is not None:
                turns.append(replace(turn, stricter=tried is stricter))
    return turns


def _first_turn(
    loads: Sequence[Load],
    question: Question,
    name: str,
    tried: Sequence[tuple[float, float]],
    now: tuple[ParallelPlan, int] | None,
) -> LimitTurn | None:
    for edge, limit in tried:
        found = answer(loads, replace(question, limits_ms={**question.limits_ms, name: limit}))
        if _outcome(found) != now:
            return LimitTurn(name, edge, False, found)
    return None


def _outcome(found: Need | None) -> tuple[ParallelPlan, int] | None:
    return None if found is None else (found.capacity.engine, found.engines)


def _of(plans: Sequence[Carried], chosen: Need) -> list[Carried]:
    return [one for one in plans if replace(one.plan, replicas=1) == chosen.capacity.engine]


def _carried(loads: list[Load], limits_ms: Mapping[str, float]) -> Carried:
    closed, failed_closed = _within([load for load in loads if not load.by_clock], limits_ms)
    clocked, failed_clocked = _within([load for load in loads if load.by_clock], limits_ms)
    if failed_clocked is not None:  # requests that come by the clock are the harder test: nothing above it counts
        closed = [load for load in closed if load.sized < failed_clocked.level]
    failed = [load for load in (failed_closed, failed_clocked) if load is not None]
    kept = sorted([*closed, *clocked], key=lambda load: load.sized)
    repeated = [load for load in kept if load.rate.low is not None]
    best = (repeated or kept)[-1] if kept else None
    return Carried(
        loads[0].plan,
        sorted(loads, key=lambda load: (load.by_clock, load.level)),
        best,
        min(failed, key=lambda load: load.rate.value, default=None),
        kept[-1] if kept and kept[-1] is not best else None,
    )


def _within(loads: Sequence[Load], limits_ms: Mapping[str, float]) -> tuple[list[Load], Load | None]:
    """Loads within the limits up to the first that is not, and that one; of several at one load the worst counts."""
    kept: list[Load] = []
    for alike in measured_alike(loads):
        failed = [load for load in alike if not load.within(limits_ms)]
        if failed:
            return kept, failed[0]
        kept.append(min(alike, key=lambda load: load.sized))
    return kept, None


def measured_alike(loads: Sequence[Load]) -> list[list[Load]]:
    """The measurements of every load of one plan, the lightest first; repeated ones stand for those made once."""
    groups: dict[tuple[bool, float], list[Load]] = {}
    for load in sorted(loads, key=lambda load: (load.by_clock, load.level)):
        groups.setdefault((load.by_clock, load.level), []).append(load)
    return [[load for load in alike if load.rate.low is not None] or alike for alike in groups.values()]


@dataclass(frozen=True)
class Decision:
    """A question and all that was found for it.

    `chosen` is the measured plan that needs least, or, where nothing was measured, the predicted one; `tempting` a
    predicted plan that would need less than what was measured.
    """

    question: Question
    work: Work
    loads: list[Load]
    plans: list[Carried]
    foretold: list[Foretold]
    capacities: list[Capacity]
    chosen: Need | None
    tempting: Need | None


def decide(question: Question, work: Work, loads: Sequence[Load], foretold: Sequence[Foretold] = ()) -> Decision:
    """What the rate takes, from what was measured; from predictions alone only where nothing was."""
    plans = carried(loads, question.limits_ms)
    every = capacities(plans, foretold)
    measured = [one for one in every if not one.predicted]
    chosen = least(measured if loads else every, question.rate, question.machine_devices)
    best = least(every, question.rate, question.machine_devices)
    predicted = best if loads and best is not None and best.capacity.predicted else None
    tried = {replace(one.plan, replicas=1) for one in plans}
    shown = [one for one in foretold if one.plan not in tried]
    return Decision(question, work, list(loads), plans, shown, every, chosen, predicted)
