from __future__ import annotations

import math
from typing import Any

import pytest

from common.core.legality import legal_tp_sizes
from common.core.model_shape import ModelShape
from common.engines.reference_models import REFERENCE_MODELS

# config.json as published on the hub, the fields that matter here
QWEN25_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
}
QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
QWEN3_30B_A3B = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}


def shape_of(config: dict[str, Any], **changed: object) -> ModelShape:
    return ModelShape.from_config({**config, **changed})


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_parameters_agree_with_the_tensors_that_are_written(name: str) -> None:
    model = REFERENCE_MODELS[name]
    written = sum(math.prod(shape) for _, shape in model.tensor_shapes())
    assert ModelShape.from_config(model.config()).parameters == pytest.approx(written, rel=0.002)


@pytest.mark.parametrize(
    ("config", "published"),
    [(QWEN25_7B, 7_615_616_512), (QWEN3_8B, 8_190_735_360), (QWEN3_30B_A3B, 30_532_122_624)],
)
def test_parameters_agree_with_the_model_cards(config: dict[str, Any], published: int) -> None:
    assert ModelShape.from_config(config).parameters == pytest.approx(published, rel=0.002)


def test_kv_bytes_per_token_by_hand() -> None:
    # keys and values, 28 layers, 4 KV heads of 3584 / 28 = 128 numbers of 2 bytes: 56 KiB
    assert ModelShape.from_config(QWEN25_7B).kv_bytes_per_token == 57_344
    # 36 layers, 8 KV heads of 128: 144 KiB
    assert ModelShape.from_config(QWEN3_8B).kv_bytes_per_token == 147_456
    assert shape_of(QWEN3_8B, torch_dtype="float32").kv_bytes_per_token == 2 * 147_456


def test_all_reduces_by_hand() -> None:
    shape = ModelShape.from_config(QWEN25_7B)
    assert shape.all_reduces_per_step == 57
    assert shape.all_reduce_bytes(16) == 114_688, "16 tokens x 3584 numbers x 2 bytes"


@pytest.mark.parametrize(
    ("heads", "kv_heads", "legal"),
    [
        (16, 4, [1, 2, 4, 8, 16]),
        (28, 4, [1, 2, 4]),
        (32, 8, [1, 2, 4, 8, 16, 32]),
        (12, 6, [1, 2, 3, 6, 12]),
        (8, 1, [1, 2, 4, 8]),
        (14, 2, [1, 2]),
    ],
)
def test_legal_sizes(heads: int, kv_heads: int, legal: list[int]) -> None:
    # an MLP that 7 does not divide and 1..6, 8..32 do, so that the heads decide
    shape = shape_of(
        QWEN25_7B, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=128, intermediate_size=3072
    )
    assert legal_tp_sizes(shape) == legal


def test_no_size_of_8_for_28_heads_and_one_of_8_for_32() -> None:
    assert 8 not in legal_tp_sizes(ModelShape.from_config(QWEN25_7B))
    assert 8 in legal_tp_sizes(ModelShape.from_config(QWEN3_8B))


def test_an_mlp_that_does_not_divide_rules_a_size_out() -> None:
    assert legal_tp_sizes(shape_of(QWEN3_8B, intermediate_size=12_292)) == [1, 2, 4]


def test_legal_sizes_stop_at_the_limit() -> None:
    assert legal_tp_sizes(ModelShape.from_config(QWEN3_8B), up_to=4) == [1, 2, 4]


def test_head_size_and_kv_heads_have_defaults() -> None:
    config = {key: value for key, value in QWEN25_7B.items() if key != "num_key_value_heads"}
    shape = ModelShape.from_config(config)
    assert shape.num_key_value_heads == 28
    assert shape.head_dim == 128
    assert ModelShape.from_config(QWEN3_8B).head_dim == 128


def test_null_fields_count_as_missing() -> None:
    """Many configs on the hub carry `"head_dim": null`."""
    shape = shape_of(QWEN25_7B, head_dim=None, num_key_value_heads=None)
    assert (shape.head_dim, shape.num_key_value_heads) == (128, 28)


def test_a_nested_language_model_is_read() -> None:
    nested = {"model_type": "llava", "vision_config": {"hidden_size": 7}, "text_config": QWEN3_8B}
    assert ModelShape.from_config(nested) == ModelShape.from_config(QWEN3_8B)


@pytest.mark.parametrize(
    "field", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_missing_field_is_named(field: str) -> None:
    config = {key: value for key, value in QWEN25_7B.items() if key != field}
    with pytest.raises(ValueError, match=f"'{field}'"):
        ModelShape.from_config(config)


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size"])
def test_a_field_that_is_no_number_is_named(field: str) -> None:
    with pytest.raises(ValueError, match=f"'{field}'"):
        shape_of(QWEN25_7B, **{field: "large"})


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_both_names_of_the_dtype_are_known(name: str) -> None:
    config = {key: value for key, value in QWEN25_7B.items() if key != "torch_dtype"}
    assert ModelShape.from_config({**config, name: "float32"}).dtype_bytes == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": -5}, "'hidden_size' is -5: a whole number from 1"),
        ({"num_attention_heads": 0}, "'num_attention_heads' is 0"),
        ({"num_key_value_heads": "four"}, "'num_key_value_heads' is four"),
        ({"vocab_size": True}, "'vocab_size' is True"),
        ({"num_hidden_layers": 1e9}, "'num_hidden_layers' is 1000000000.0"),
    ],
)
def test_a_config_that_cannot_be_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"config.json's {said}"):
        ModelShape.from_config(QWEN25_7B | change)


def test_a_text_config_of_nothing_and_experts_by_another_name() -> None:
    assert ModelShape.from_config(QWEN25_7B | {"text_config": None}) == ModelShape.from_config(QWEN25_7B)
    assert ModelShape.from_config(QWEN25_7B | {"n_routed_experts": 8}).num_experts == 8
