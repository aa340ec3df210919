"""Which plans are worth predicting, and what to say where none of them fits."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.legality import why_illegal
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.predict.memory import fit, smallest_that_fits
from common.predict.wanted import Ask


def plans_of(count: int, least: ParallelPlan, shape: ModelShape) -> list[ParallelPlan]:
    """Plans worth predicting on so many devices; `least` is the smallest that holds the model."""
    plans = [ParallelPlan(tp=count)]
    if count > 1:
        plans.append(ParallelPlan(pp=count))
        experts = ParallelPlan(tp=count, ep=True)
        plans += [experts] if shape.num_experts and why_illegal(experts, shape) is None else []
    if count > least.tp and count % least.tp == 0:
        plans.append(ParallelPlan(tp=least.tp, replicas=count // least.tp))
    return plans


def nothing_fits(ask: Ask, plans: Sequence[ParallelPlan]) -> str:
    """By how much the model is too large, and what would hold it."""
    short = {plan: fit(ask.shape, ask.hardware, plan, ask.weight_bytes).missing_bytes / 1e9 for plan in plans}
    nearest = min(short, key=lambda plan: (short[plan], plan.devices))
    least = smallest_that_fits(ask.shape, ask.hardware, ask.weight_bytes)
    remedy = f"{least} would hold it" if least else "no tensor-parallel plan up to 64 devices would hold it"
    short_by = f"{short[nearest]:.1f} GB short on each device" if short[nearest] else "no room for one request"
    return f"no plan fits on {ask.hardware.name}: {nearest} is {short_by}; {remedy}, or fewer bytes per weight"
