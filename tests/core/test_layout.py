"""Which rank holds what: nothing is lost, nothing is held twice that should not be, and vLLM's own order."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.layout import layout, stage_ranges
from common.core.legality import legal_plans
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.weight_split import plan_parameters
from common.engines.reference_models import REFERENCE_MODELS

SHAPES = {name: ModelShape.from_config(model.config()) for name, model in REFERENCE_MODELS.items()}
DENSE, MOE = SHAPES["qwen2-9m"], SHAPES["qwen3-moe-16m"]


@given(st.integers(1, 100), st.integers(1, 100))
def test_stages_hold_every_layer_once_in_order(layers: int, stages: int) -> None:
    if stages > layers:
        with pytest.raises(ValueError, match=f"{layers} layers cannot be split into {stages} stages"):
            stage_ranges(layers, stages)
        return
    found = stage_ranges(layers, stages)
    assert list(chain(*found)) == list(range(layers))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_left_over_layers_go_before_the_last_stage() -> None:
    """As in vLLM: both ends also hold an embedding or a head."""
    assert [len(stage) for stage in stage_ranges(10, 4)] == [2, 3, 3, 2]
    assert [len(stage) for stage in stage_ranges(36, 5)] == [7, 7, 7, 8, 7]


def test_chosen_stages_are_kept_and_wrong_ones_refused() -> None:
    assert stage_ranges(8, 2, (5, 3)) == [range(5), range(5, 8)]
    for wrong in ((5, 4), (8,), (2, 2, 4)):
        with pytest.raises(ValueError, match="are not 8 layers in 2 stages"):
            stage_ranges(8, 2, wrong)


@pytest.mark.parametrize("name", SHAPES)
def test_each_engine_of_a_legal_plan_holds_every_head_layer_and_expert_once(name: str) -> None:
    shape = SHAPES[name]
    for plan in legal_plans(shape, 8):
        shares = layout(plan, shape)
        assert [share.rank for share in shares] == list(range(plan.devices))
        for engine in {(share.replica, share.dp_rank) for share in shares}:
            own = [share for share in shares if (share.replica, share.dp_rank) == engine]
            held = [(layer, head) for share in own for layer in share.layers for head in share.heads]
            everything = [(y, x) for y in range(shape.num_hidden_layers) for x in range(shape.num_attention_heads)]
            assert sorted(held) == everything, plan
        if shape.num_experts:
            of_replica = [share for share in shares if share.replica == 0]
            parts = [
                (layer, one, 1 / share.mlp_parts)
                for share in of_replica
                for layer in share.layers
                for one in share.experts
            ]
            assert sum(part for _, _, part in parts) == pytest.approx(shape.num_hidden_layers * shape.num_experts), plan


def test_the_order_is_vllms() -> None:
    shares = layout(ParallelPlan(tp=2, pp=2, replicas=2), DENSE)
    assert [(share.replica, share.stage, share.tp_rank) for share in shares[:5]] == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (1, 0, 0),
    ]
    assert [share.layers for share in shares[:3]] == [range(4), range(4), range(4, 8)]


def test_experts_stay_whole_with_ep_and_are_cut_without() -> None:
    whole = layout(ParallelPlan(tp=2, ep=True), MOE)
    assert [(share.experts, share.mlp_parts) for share in whole] == [(range(4), 1), (range(4, 8), 1)]
    cut = layout(ParallelPlan(tp=2), MOE)
    assert [(share.experts, share.mlp_parts) for share in cut] == [(range(8), 2)] * 2
    over_engines = layout(ParallelPlan(tp=2, dp=2, ep=True), MOE)
    assert [share.experts for share in over_engines] == [range(2), range(2, 4), range(4, 6), range(6, 8)]


def test_fewer_kv_heads_than_ranks_are_copied() -> None:
    shares = layout(ParallelPlan(tp=8), DENSE)
    assert [share.kv_heads.start for share in shares] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("name", SHAPES)
def test_weights_of_a_pipeline_are_the_models_and_one_embedding_more_where_it_is_tied(name: str) -> None:
    shape = SHAPES[name]
    (whole,) = plan_parameters(shape, ParallelPlan())
    embedding = shape.vocab_size * shape.hidden_size
    assert sum(plan_parameters(shape, ParallelPlan(pp=2))) == whole + embedding
    untied = replace(shape, tie_word_embeddings=False)
    assert sum(plan_parameters(untied, ParallelPlan(pp=2))) == sum(plan_parameters(untied, ParallelPlan()))
    uneven = plan_parameters(shape, ParallelPlan(pp=2, stage_layers=(shape.num_hidden_layers - 1, 1)))
    assert sum(uneven) == whole + embedding
    assert uneven[0] > uneven[1]
