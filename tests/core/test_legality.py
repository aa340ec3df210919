"""Plans that a model cannot be laid out in are known, and the nearest that it can."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.legality import legal_plans, nearest_legal, plainly, why_illegal
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines.reference_models import REFERENCE_MODELS

SHAPES = {name: ModelShape.from_config(model.config()) for name, model in REFERENCE_MODELS.items()}
DENSE, MOE = SHAPES["qwen2-126m"], SHAPES["qwen3-moe-16m"]
QWEN3_8B = replace(DENSE, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8)


def plan(text: str) -> ParallelPlan:
    return ParallelPlan.parse(text)


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("tp6pp3", QWEN3_8B, "tp6 does not divide this model (32 attention heads, 8 KV heads)"),
        ("tp3", DENSE, "tp3 does not divide this model (16 attention heads, 4 KV heads)"),
        ("tp32", DENSE, "tp32 does not divide"),
        ("pp3", DENSE, "pp3 does not divide this model's 8 layers (an uneven split is written pp3+3+2)"),
        ("pp9", DENSE, "pp9 has more stages than this model has layers (8)"),
        ("pp5+4", DENSE, "pp5+4 has 9 layers, and this model 8"),
        ("tp2ep", DENSE, "tp2ep splits experts, and this model has none"),
        ("tp1ep", MOE, "tp1ep has one device for all experts"),
        ("tp2dp8ep", MOE, "tp2dp8ep does not divide this model's 8 experts by 16"),
        ("tp1dp3", MOE, "tp1dp3 does not divide this model's MLP of 512 by 3"),
        ("tp99999999", DENSE, "tp99999999 does not divide"),
    ],
)
def test_what_does_not_divide_is_said(text: str, shape: ModelShape, reason: str) -> None:
    assert (why_illegal(plan(text), shape) or "").startswith(reason)


@pytest.mark.parametrize("text", ["tp1", "tp2", "pp2", "tp1dp2", "tp1x2", "tp2pp2", "pp5+3", "tp16", "tp1x3", "tp1dp3"])
def test_legal_plans_have_no_reason(text: str) -> None:
    assert why_illegal(plan(text), DENSE) is None


@pytest.mark.parametrize(
    ("text", "shape", "devices", "nearest"),
    [
        ("tp6pp3", QWEN3_8B, 6, ["tp2pp3"]),
        ("tp6pp3", QWEN3_8B, 18, ["tp4pp3"]),
        ("tp3", DENSE, 2, ["tp2"]),
        ("tp3", DENSE, 8, ["tp4"]),
        ("pp3", DENSE, 4, ["pp4"]),
        ("tp2ep", DENSE, 2, ["tp2"]),
        ("tp4pp4dp4x4", MOE, 1, ["tp1"]),
        ("tp3", DENSE, 0, []),
    ],
)
def test_the_nearest_legal_plans(text: str, shape: ModelShape, devices: int, nearest: list[str]) -> None:
    assert [str(found) for found in nearest_legal(plan(text), shape, devices)] == nearest


def test_every_legal_plan_of_two_devices() -> None:
    assert [str(found) for found in legal_plans(DENSE, 2)] == ["tp1", "pp2", "tp2", "tp1dp2", "tp1x2"]
    assert {"tp2ep", "tp1dp2ep"} <= {str(found) for found in legal_plans(MOE, 2)}
    assert legal_plans(DENSE, 0) == []


def test_legal_plans_take_sensible_numbers_of_devices_and_mix_no_copies() -> None:
    found = legal_plans(DENSE, 6)
    assert {one.devices for one in found} == {1, 2, 4, 6}
    assert not [one for one in found if one.dp > 1 and one.replicas > 1]
    assert all(why_illegal(one, DENSE) is None for one in found)
    assert len(set(found)) == len(found)


def test_layers_that_vllm_would_choose_are_not_written() -> None:
    assert plainly(plan("pp4+4"), DENSE) == plan("pp2")
    assert plainly(plan("pp5+3"), DENSE) == plan("pp5+3")
    assert plainly(plan("pp3+3+2"), DENSE) == plan("pp3+3+2"), "pp3 alone would be refused"
    assert plainly(plan("pp1+1+1+1+1+1+1+1+1"), DENSE).pp == 9
