"""Which plans are worth predicting, and what to say where none of them fits."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.legality import why_illegal
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.predict.memory import fit, kv_bytes_per_token, smallest_that_fits
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
    short = {plan: fit(ask.shape, ask.hardware, plan, ask.bytes_per_weight).missing_bytes / 1e9 for plan in plans}
    nearest = min(short, key=lambda plan: (short[plan], plan.devices))
    if not short[nearest]:
        return _no_request_fits(ask, [plan for plan in plans if not short[plan]])
    least = smallest_that_fits(ask.shape, ask.hardware, ask.bytes_per_weight)
    remedy = f"{least} would hold it" if least else "no tensor-parallel plan up to 64 devices would hold it"
    short_by = f"{short[nearest]:.1f} GB short on each device"
    return f"no plan fits on {ask.hardware.name}: {nearest} is {short_by}; {remedy}, or fewer bytes per weight"


def _no_request_fits(ask: Ask, plans: Sequence[ParallelPlan]) -> str:
    """The weights fit, and the KV cache of a single request does not."""
    length = ask.input_tokens + ask.output_tokens
    room = {plan: fit(ask.shape, ask.hardware, plan, ask.bytes_per_weight).kv_tokens for plan in plans}
    most = max(room, key=lambda plan: (room[plan], -plan.devices))
    missing = (length - room[most]) * kv_bytes_per_token(ask.shape, most) / 1e9
    enough = smallest_that_fits(ask.shape, ask.hardware, ask.bytes_per_weight, length)
    remedy = f"{enough} would hold it" if enough else "no tensor-parallel plan up to 64 devices would hold it"
    return (
        f"the model fits on {ask.hardware.name}, the KV cache of one request does not: {length} tokens, and {most} has"
        f" room for {room[most]}, {missing:.1f} GB short on each device; {remedy}, or fewer --input-tokens"
    )
