"""A plan taken apart for a reader: what each device holds, and what devices send each other."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.layout import RankShare, layout
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.traffic import Exchange, bytes_per_token, exchanges
from common.core.weight_split import plan_parameters


def holdings(plan: ParallelPlan, shape: ModelShape) -> list[list[str]]:
    """One line of cells per device: device, layers, heads, KV heads, experts (or part of each MLP), weights in MB."""
    shares, weights = layout(plan, shape), plan_parameters(shape, plan)
    return [
        [
            f"{share.rank}",
            span(share.layers),
            span(share.heads),
            span(share.kv_heads),
            mlp_words(share),
            f"{parameters * shape.dtype_bytes / 1e6:.3g}",
        ]
        for share, parameters in zip(shares, weights, strict=True)
    ]


def mlp_words(share: RankShare) -> str:
    """`experts 0-3`, `1/2 of each expert`, `1/2 of each MLP`, `whole MLPs`."""
    if share.experts and share.mlp_parts == 1:
        return f"experts {span(share.experts)}"
    what = "expert" if share.experts else "MLP"
    return f"1/{share.mlp_parts} of each {what}" if share.mlp_parts > 1 else f"whole {what}s"


def span(numbers: Sequence[int]) -> str:
    """`0-7`, or `3` where there is one."""
    if not numbers:
        return "-"
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def traffic_words(plan: ParallelPlan, shape: ModelShape) -> str:
    """All communication of an engine in one sentence."""
    found = exchanges(plan, shape)
    if not found:
        return "nothing" if plan.devices == 1 else "nothing: each engine works for itself"
    said = ", ".join(f"{_calls(exchange)}: {size_words(exchange.bytes_per_token)}" for exchange in found)
    total = f"; {size_words(bytes_per_token(plan, shape))} per token" if len(found) > 1 else " per token"
    return f"{said}{total}"


def size_words(count: float) -> str:
    """`66.1 kB`."""
    if count < 1e3:
        return f"{count:.0f} B"
    return f"{count / 1e3:.3g} kB" if count < 1e6 else f"{count / 1e6:.3g} MB"


def _calls(exchange: Exchange) -> str:
    plural = "s" if exchange.calls > 1 and exchange.operation != "send/receive" else ""
    return f"{exchange.calls} {exchange.operation}{plural}"


def sources(plans: Sequence[ParallelPlan], shape: ModelShape) -> list[str]:
    """Where the formulas behind the communication of these plans come from, each operation once."""
    found = {exchange.operation: exchange.source for plan in plans for exchange in exchanges(plan, shape)}
    return [f"{operation}: {source}" for operation, source in found.items()]
