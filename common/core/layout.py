"""Which rank of a plan holds which layers, attention heads and experts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan


@dataclass(frozen=True)
class RankShare:
    """What one rank holds; `rank` counts over the whole plan, replica by replica, each in vLLM's order DP, PP, TP.

    `experts` are the whole experts that it holds, empty for a dense model. Of an MLP or an expert it holds one of
    `mlp_parts` equal parts.
    """

    rank: int
    replica: int
    dp_rank: int
    stage: int
    tp_rank: int
    layers: range
    heads: range
    kv_heads: range
    experts: range
    mlp_parts: int
    first_stage: bool
    last_stage: bool


def stage_ranges(layers: int, stages: int, chosen: Sequence[int] = ()) -> list[range]:
    """The layers of each pipeline stage: as chosen, else as vLLM splits them (`get_pp_indices` in its
    `distributed/utils.py`): evenly, and what is left over goes to the stages before the last, one each.

    Raises:
        ValueError: more stages than layers, or chosen ones that are not the model's layers.
    """
    if not 1 <= stages <= layers:
        raise ValueError(f"{layers} layers cannot be split into {stages} stages")
    sizes = list(chosen) or [layers // stages] * stages
    for place in range(layers % stages if not chosen else 0):
        sizes[-2 - place] += 1
    if sum(sizes) != layers or len(sizes) != stages:
        raise ValueError(f"{' + '.join(map(str, sizes))} layers are not {layers} layers in {stages} stages")
    begins = [sum(sizes[:stage]) for stage in range(stages)]
    return [range(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)]


def layout(plan: ParallelPlan, shape: ModelShape) -> list[RankShare]:
    """Every rank of a plan, in order of devices.

    Raises:
        ValueError: the layers do not make the plan's stages.
    """
    stages = stage_ranges(shape.num_hidden_layers, plan.pp, plan.stage_layers)
    places = [
        (replica, dp_rank, stage, tp_rank)
        for replica in range(plan.replicas)
        for dp_rank in range(plan.dp)
        for stage in range(plan.pp)
        for tp_rank in range(plan.tp)
    ]
    return [
        RankShare(
            rank,
            *place,
            layers=stages[place[2]],
            heads=_part(shape.num_attention_heads, place[3], plan.tp),
            kv_heads=_part(shape.num_key_value_heads, place[3], plan.tp),
            experts=_experts(plan, shape, place[1] * plan.tp + place[3]),
            mlp_parts=mlp_parts(plan, shape),
            first_stage=place[2] == 0,
            last_stage=place[2] == plan.pp - 1,
        )
        for rank, place in enumerate(places)
    ]


def mlp_parts(plan: ParallelPlan, shape: ModelShape) -> int:
    """Into how many parts each MLP or expert is cut: experts are cut over TP x DP ranks, or with EP not at all."""
    if not shape.num_experts:
        return plan.tp
    return 1 if plan.ep else plan.tp * plan.dp


def _part(count: int, rank: int, ranks: int) -> range:
    """One of equal parts; where there are fewer things than ranks, several ranks hold the same one."""
    if count < ranks:
        held = rank * count // ranks
        return range(held, held + 1)
    return range(rank * count // ranks, (rank + 1) * count // ranks)


def _experts(plan: ParallelPlan, shape: ModelShape, rank_of_experts: int) -> range:
    """vLLM's linear placement: with EP, ranks of TP x DP hold experts one after another."""
    if not plan.ep:
        return range(shape.num_experts)
    return _part(shape.num_experts, rank_of_experts, plan.tp * plan.dp)
