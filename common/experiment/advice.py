"""Which measurement would tell a decision most: its command, minutes and dollars."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.analysis.decision.answer import Carried, Decision, by_bracket
from common.analysis.decision.reading import PREDICTED, dollars
from common.core.capacity import Need
from common.core.legality import why_illegal
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.experiment.estimate import estimate
from common.experiment.options import STARTS, Preset
from common.experiment.roofline import Roofline
from common.experiment.spec import Spec
from common.store.files import StoreError
from common.store.schema import Result

PRESET: Preset = "lab"  # several engine starts: what a purchase can rest on
UNTRIED = (4, 16, 64)  # clients, where nothing says which


@dataclass(frozen=True)
class Site:
    """What a measurement would run on: a model, and a kind of machine at a price."""

    model: str
    shape: ModelShape
    device_kind: str
    machine_devices: int
    usd_per_hour: float | None


def site_of(result: Result, usd_per_hour: float | None) -> Site:
    """Where a result was measured, at this price or else its own.

    Raises:
        StoreError: it does not say what the model or the machine is.
    """
    try:
        shape, model = ModelShape(**result.config["model_shape"]), str(result.config["model"])
        kind, devices = str(result.environment["device_kind"]), len(result.environment["devices"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{result.run_id} does not say which model and devices it is of; measure it again") from error
    if not devices or kind not in ("cpu", "gpu"):
        raise StoreError(f"{result.run_id} does not say which devices it is of; measure it again")
    return Site(model, shape, kind, devices, usd_per_hour or result.cost.get("usd_per_hour"))


@dataclass(frozen=True)
class Wanted:
    """A measurement: a plan at some numbers of clients and, where it can be said, at a rate by the clock."""

    plan: ParallelPlan
    clients: tuple[int, ...]
    rate: float | None
    reason: str


def wanted(decision: Decision, next_plan: ParallelPlan | None) -> Wanted:
    """What to measure next, or first; `next_plan` is the one that tells most about the predictions.

    A rate by the clock is wanted only of a plan and work that an experiment can send so.
    """
    measure = _wanted(decision, next_plan)
    return measure if _by_tp(measure.plan) and not decision.work.recording else replace(measure, rate=None)


def _wanted(decision: Decision, next_plan: ParallelPlan | None) -> Wanted:
    foretold = {one.plan: one for one in decision.foretold}
    if decision.tempting is not None:
        plan = decision.tempting.capacity.engine
        reason = f"it is {PREDICTED} to need less than what was measured"
        return Wanted(plan, _around(foretold[plan].clients), decision.tempting.capacity.rate(1), reason)
    if decision.loads and decision.chosen is not None and decision.chosen.shares_unseen:
        return _side_by_side(decision, decision.chosen)
    if decision.loads:
        return _between(decision)
    chosen = decision.chosen.capacity.engine if decision.chosen else ParallelPlan()
    if next_plan is not None and _by_tp(next_plan) and (next_plan in foretold or decision.chosen is None):
        plan, reason = next_plan, "of all plans it narrows the predictions most for the devices it takes"
    else:
        plan, reason = chosen, "the answer rests on it"
    one = foretold.get(plan)
    return Wanted(plan, UNTRIED if one is None else _around(one.clients), None if one is None else one.rate.low, reason)


def plans_measured(measure: Wanted, site: Site) -> list[ParallelPlan]:
    """The plans that the command measures: replicas stand beside the plan that splits the model over their devices."""
    beside = [ParallelPlan(tp=measure.plan.replicas)] if _as_replicas(measure.plan, site) else []
    return [*beside, measure.plan]


def advise(decision: Decision, measure: Wanted, site: Site, specs: Sequence[Spec]) -> list[str]:
    """The measurement in words and as a command; `specs` are its cases, for minutes and dollars."""
    took = estimate(specs, STARTS[PRESET], Roofline(site.shape, site.device_kind), repeat_base_last=True)
    usd = took.usd(site.usd_per_hour)
    price = (
        "" if usd is None or site.usd_per_hour is None else f", {dollars(usd)} at {dollars(site.usd_per_hour)} an hour"
    )
    by_clock = " and by the clock" if measure.rate is not None else ""
    loads = ", ".join(map(str, measure.clients))
    plans = plans_measured(measure, site)
    each = " of each" if len(plans) > 1 else ""
    text = (
        f"{' and '.join(map(str, plans))} at {loads} clients{by_clock}, {STARTS[PRESET]} engine starts{each}: about"
        f" {took.seconds / 60:.0f} minutes{price}, the model's download not counted (an estimate)."
        f" Why: {measure.reason}."
    )
    return [text, f"```\n{command(decision, measure, site)}\n```"]


def command(decision: Decision, measure: Wanted, site: Site) -> str:
    """The command line of a measurement, in the decision's own lengths and limits.

    Only benchmark_scaling.py sends recorded requests, to tensor-parallel plans and replicas; others get mean lengths.
    """
    plan, work = measure.plan, decision.work
    copies = _as_replicas(plan, site)
    recorded = bool(work.recording) and (copies or _by_tp(plan))
    if copies:
        script, of_plan = "benchmark_scaling", ["--tp", str(plan.replicas), "--replicas"]
    elif _by_tp(plan):
        script = "benchmark_scaling" if recorded else "simulate_concurrent_requests"
        of_plan = ["--tp", str(plan.tp)]
    else:
        script, of_plan = "compare_parallel_plans", ["--plans", str(plan)]
    words = ["python", f"week5/{script}.py", "--model", site.model, *of_plan, "--preset", PRESET]
    words += ["--concurrency", *map(str, measure.clients)]
    words += ["--curves", "fixed"] if script == "benchmark_scaling" else []
    if recorded:
        words += ["--workload", "FILE"]
    else:
        words += ["--input-tokens", str(work.input_tokens), "--output-tokens", str(work.output_tokens)]
    if _by_tp(plan) and not recorded:
        words += ["--rate", f"{measure.rate:.3g}"] if measure.rate is not None else []
        words += ["--slo", *(f"{name}={limit:g}" for name, limit in decision.question.limits_ms.items())]
    words += ["--usd-per-hour", f"{site.usd_per_hour:g}"] if site.usd_per_hour is not None else []
    return shlex.join(words)


def _as_replicas(plan: ParallelPlan, site: Site) -> bool:
    """Whether `benchmark_scaling.py --replicas` measures it: copies on one device each, as many as TP could split."""
    copies = plan.replicas > 1 and plan == ParallelPlan(replicas=plan.replicas)
    return copies and not why_illegal(ParallelPlan(tp=plan.replicas), site.shape)


def _side_by_side(decision: Decision, chosen: Need) -> Wanted:
    """As many engines as the answer puts on one machine, at as many clients for each as one was counted with."""
    seen = max(chosen.capacity.carried)
    loads = [one.best for one in decision.plans if one.plan == replace(chosen.capacity.engine, replicas=seen)]
    best = next((load for load in loads if load is not None and not load.by_clock), None)
    each = UNTRIED[1] if best is None else best.level / seen
    reason = (
        f"the answer puts {chosen.together} engines on one machine and nothing shows that they add up there, so how"
        " many machines it takes rests on it"
    )
    plan = replace(chosen.capacity.engine, replicas=chosen.together)
    return Wanted(plan, _around(round(each * chosen.together)), None, reason)


def _between(decision: Decision) -> Wanted:
    """Between the load that kept the limits and the one that did not, of the plan that was chosen."""
    engine = decision.chosen.capacity.engine if decision.chosen else decision.plans[0].plan
    own = [one for one in decision.plans if one.plan == engine]
    one: Carried = own[0] if own else decision.plans[0]
    rate = None if one.best is None else one.best.sized
    if one.best is None or one.best.by_clock:
        lightest = one.loads[0]
        below = UNTRIED if lightest.by_clock or lightest.level <= 1 else _around(max(1, int(lightest.level) // 2))
        return Wanted(one.plan, below, rate, "no load that was tried settles it")
    low = int(one.best.level)
    high = None if one.failed is None or one.failed.by_clock else int(one.failed.level)
    if high is None:
        return Wanted(one.plan, (low, 2 * low, 4 * low), rate, "its limit was not seen")
    most = None if decision.chosen is None else by_bracket(decision.plans, decision.chosen, decision.question.rate)
    if decision.chosen is not None and most is not None and most.engines >= decision.chosen.engines:
        reason = "three starts give an interval to count on, and people come by the clock; more clients save no engine"
        return Wanted(one.plan, (low,), rate, reason)
    middle = sorted({low, round((low * high) ** 0.5), high})
    reason = "three starts give an interval to count on, between is where its limit lies, and people come by the clock"
    return Wanted(one.plan, tuple(middle), rate, reason)


def _around(clients: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, clients // 2), clients, 2 * clients}))


def _by_tp(plan: ParallelPlan) -> bool:
    return plan == ParallelPlan(tp=plan.tp)
