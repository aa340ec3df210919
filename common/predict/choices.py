"""Which plans are worth predicting, and what to say where none of them fits."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.legality import why_illegal, why_not_divided
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
    """By how much the model is too large, or a request too long, and what would hold it; or that no plan divides it."""
    legal = [plan for plan in plans if why_illegal(plan, ask.shape) is None]
    if not legal:
        return f"no plan divides the model: {why_not_divided(plans[0], ask.shape)}"
    short = {plan: fit(ask.shape, ask.hardware, plan, ask.bytes_per_weight).missing_bytes / 1e9 for plan in legal}
    nearest = min(short, key=lambda plan: (short[plan], plan.devices))
    if not short[nearest]:
        return _no_request_fits(ask, [plan for plan in legal if not short[plan]])
    short_by = f"{short[nearest]:.1f} GB short on each device"
    remedy = "fewer bytes per weight need less (--dtype)"
    return f"no plan fits on {ask.hardware.name}: {nearest} is {short_by}; {_would_hold(ask, 1)}; {remedy}"


def _no_request_fits(ask: Ask, plans: Sequence[ParallelPlan]) -> str:
    """The weights fit, and the KV cache of a single request does not."""
    length = ask.input_tokens + ask.output_tokens
    room = {plan: fit(ask.shape, ask.hardware, plan, ask.bytes_per_weight).kv_tokens for plan in plans}
    most = max(room, key=lambda plan: (room[plan], -plan.devices))
    missing = (length - room[most]) * kv_bytes_per_token(ask.shape, most) / 1e9
    usable = min(room[most], ask.shape.max_position_embeddings)  # more the model does not take
    left = usable - ask.output_tokens
    context = "" if usable == room[most] else f": the model's context is taken as {usable} tokens"
    shorter = f"--input-tokens up to {left}" if left > 0 else f"prompt and answer of {usable} tokens together"
    return (
        f"the model fits on {ask.hardware.name}, the KV cache of one request does not: {length} tokens, and {most} has"
        f" room for {room[most]}, {missing:.1f} GB short on each device; {_would_hold(ask, length)}; on {most},"
        f" {shorter} would fit{context}"
    )


def _would_hold(ask: Ask, tokens: int) -> str:
    """The smallest tensor-parallel plan that holds the model and so many tokens, or that none does."""
    least = smallest_that_fits(ask.shape, ask.hardware, ask.bytes_per_weight, tokens)
    return f"{least} would hold it" if least else "no tensor-parallel plan up to 64 devices would hold it"
