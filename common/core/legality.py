"""Which plans a model can be laid out in, and the nearest of those to one that it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from common.core.layout import stage_ranges
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan

ANOTHER_KIND = 0.5  # how far apart two plans are of which only one splits by experts: less than a factor of two
MOST_DEVICES = 1024  # beyond that nobody asks, and trying all plans takes long


def why_illegal(plan: ParallelPlan, shape: ModelShape) -> str | None:
    """What of the model a plan does not divide, or None. An uneven pipeline is legal where its layers are written."""
    if plan.ep and not shape.num_experts:
        return f"{plan} splits experts, and this model has none"
    if plan.ep and plan.tp * plan.dp == 1:
        return f"{plan} has one device for all experts: expert parallelism needs two"
    return why_heads_do_not_divide(plan.tp, shape) or _experts(plan, shape) or _stages(plan, shape)


def why_heads_do_not_divide(tp: int, shape: ModelShape) -> str | None:
    """What forbids so many tensor-parallel ranks, or None: KV heads are dealt out, or each is copied equally often."""
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    if heads % tp == 0 and (kv_heads % tp == 0 or tp % kv_heads == 0):
        return None
    return f"tp{tp} does not divide this model ({heads} attention heads, {kv_heads} KV heads)"


def legal_tp_sizes(shape: ModelShape, up_to: int = 64) -> list[int]:
    """TP sizes that divide heads and MLP, and divide the KV heads or copy each equally often."""
    most = min(up_to, shape.num_attention_heads)
    return [size for size in range(1, most + 1) if why_illegal(ParallelPlan(tp=size), shape) is None]


def plainly(plan: ParallelPlan, shape: ModelShape) -> ParallelPlan:
    """The plan without its layers per stage where they are those that vLLM would choose: `pp4+4` is `pp2`."""
    even = plan.pp <= shape.num_hidden_layers and plan.stage_layers == tuple(
        len(stage) for stage in stage_ranges(shape.num_hidden_layers, plan.pp)
    )
    return replace(plan, stage_layers=()) if even and shape.num_hidden_layers % plan.pp == 0 else plan


def legal_plans(shape: ModelShape, devices: int) -> list[ParallelPlan]:
    """Every legal plan worth comparing on so many devices, the smallest first.

    Plans have a power of two of devices, or all of them; `dp` and replicas, which both copy, are not mixed.
    """
    sizes = {2**power for power in range(devices.bit_length()) if 2**power <= devices} | {devices}
    return sorted(
        (
            plan
            for plan in _every(devices)
            if plan.devices in sizes and 1 in (plan.dp, plan.replicas) and why_illegal(plan, shape) is None
        ),
        key=lambda plan: (plan.devices, plan.replicas, plan.dp, plan.ep, plan),
    )


def nearest_legal(plan: ParallelPlan, shape: ModelShape, devices: int, most: int = 3) -> list[ParallelPlan]:
    """The legal plans on so many devices that differ least, by the product of the ratios of their sizes.

    Only the nearest and those equally near, the largest first, at most so many.
    """
    legal = [other for other in _every(devices) if why_illegal(other, shape) is None]
    ordered = sorted(legal, key=lambda other: (_distance(plan, other), -other.devices, -other.tp))
    return [other for other in ordered if _distance(plan, other) <= _distance(plan, ordered[0]) + 1e-9][:most]


def why_not_divided(plan: ParallelPlan, shape: ModelShape) -> str | None:
    """The same as `why_illegal`, with the nearest plans on as many devices that do divide the model."""
    reason = why_illegal(plan, shape)
    near = ", ".join(map(str, nearest_legal(plan, shape, plan.devices))) if reason else ""
    return f"{reason}; the nearest that do: {near}" if reason else None


def _experts(plan: ParallelPlan, shape: ModelShape) -> str | None:
    ranks = plan.tp * (plan.dp if shape.num_experts else 1)
    if plan.ep and shape.num_experts % ranks:
        return f"{plan} does not divide this model's {shape.num_experts} experts by {ranks}"
    if not plan.ep and shape.intermediate_size % ranks:
        return f"{plan} does not divide this model's MLP of {shape.intermediate_size} by {ranks}"
    return None


def _stages(plan: ParallelPlan, shape: ModelShape) -> str | None:
    layers = shape.num_hidden_layers
    if plan.stage_layers:
        total = sum(plan.stage_layers)
        return None if total == layers else f"{plan} has {total} layers, and this model {layers}"
    if plan.pp > layers:
        return f"pp{plan.pp} has more stages than this model has layers ({layers})"
    if layers % plan.pp == 0:
        return None
    uneven = "+".join(str(len(stage)) for stage in stage_ranges(layers, plan.pp))
    return f"pp{plan.pp} does not divide this model's {layers} layers (an uneven split is written pp{uneven})"


def _every(devices: int) -> Iterator[ParallelPlan]:
    """All plans on at most so many devices."""
    most = min(devices, MOST_DEVICES)
    for tp in range(1, most + 1):
        for pp in range(1, most // tp + 1):
            for dp in range(1, most // (tp * pp) + 1):
                for replicas in range(1, most // (tp * pp * dp) + 1):
                    yield ParallelPlan(tp, pp, dp, False, replicas)
                    yield ParallelPlan(tp, pp, dp, True, replicas)


def _distance(one: ParallelPlan, other: ParallelPlan) -> float:
    apart = sum(abs(math.log(getattr(one, size) / getattr(other, size))) for size in ("tp", "pp", "dp", "replicas"))
    return apart + (ANOTHER_KIND if one.ep != other.ep else 0.0)
