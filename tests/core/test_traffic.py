"""Bytes between ranks, against sums done by hand."""

from __future__ import annotations

import pytest

from common.core.legality import legal_plans
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.traffic import bytes_per_token, exchanges
from common.engines.reference_models import REFERENCE_MODELS

SHAPES = {name: ModelShape.from_config(model.config()) for name, model in REFERENCE_MODELS.items()}
DENSE, MOE = SHAPES["qwen2-126m"], SHAPES["qwen3-moe-16m"]
HIDDEN_BYTES, LOGIT_BYTES = 1024 * 2, 10_240 * 2  # of one token, bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tp1", 0),
        ("tp1dp2", 0),
        ("tp1x2", 0),
        ("tp2", 17 * 2 * 1 * HIDDEN_BYTES + LOGIT_BYTES),  # 2 x 8 layers and the embedding; a ring of two
        ("tp4", 17 * 2 * 3 * HIDDEN_BYTES + 3 * LOGIT_BYTES),
        ("pp2", 2 * HIDDEN_BYTES),  # hidden states and residual, over one boundary
        ("pp4", 3 * 2 * HIDDEN_BYTES),
        ("pp5+3", 2 * HIDDEN_BYTES),
        ("tp2pp2", 17 * 2 * HIDDEN_BYTES + LOGIT_BYTES + 2 * 2 * HIDDEN_BYTES),
        ("tp2x2", 17 * 2 * HIDDEN_BYTES + LOGIT_BYTES),  # of one engine
    ],
)
def test_bytes_of_a_token_by_hand(text: str, expected: int) -> None:
    assert bytes_per_token(ParallelPlan.parse(text), DENSE) == expected


def test_experts_inside_one_group_need_no_operation_of_their_own() -> None:
    split, by_experts = ParallelPlan(tp=2), ParallelPlan(tp=2, ep=True)
    assert bytes_per_token(split, MOE) == bytes_per_token(by_experts, MOE)
    assert {exchange.operation for exchange in exchanges(by_experts, MOE)} == {"all-reduce", "all-gather"}


def test_experts_over_data_parallel_engines_exchange_tokens() -> None:
    (exchange,) = exchanges(ParallelPlan(dp=2, ep=True), MOE)
    assert exchange.operation == "all-to-all"
    assert exchange.bytes_per_token == 2 * 4 * 1 * 256 * 2, "there and back, 4 layers, to one other rank"
    both = exchanges(ParallelPlan(tp=2, dp=2, ep=True), MOE)
    assert [one.calls for one in both] == [5, 1, 8], "the MLPs' all-reduces are gone"


@pytest.mark.parametrize("name", SHAPES)
def test_every_exchange_has_ranks_bytes_and_a_source(name: str) -> None:
    for plan in legal_plans(SHAPES[name], 8):
        for exchange in exchanges(plan, SHAPES[name]):
            assert exchange.ranks > 1 and exchange.calls > 0
            assert exchange.bytes_per_token > 0
            assert len(exchange.source) > 20
