from __future__ import annotations

import math
from dataclasses import replace

import pytest

from common.core.model_shape import ModelShape
from common.core.weight_split import rank_kv_bytes, rank_parameters, rank_weight_bytes
from common.engines.reference_models import REFERENCE_MODELS, ReferenceModel

SHAPES = {name: ModelShape.from_config(model.config()) for name, model in REFERENCE_MODELS.items()}
SMALL = SHAPES["qwen2-9m"]


def held_by_a_rank(model: ReferenceModel, tp: int) -> float:
    """Told from the tensors themselves: what vLLM's layers split, what they copy."""
    held = 0.0
    for name, tensor in model.tensor_shapes():
        copied = name.endswith("norm.weight") or name.endswith("mlp.gate.weight")
        parts = min(tp, model.num_key_value_heads) if "k_proj" in name or "v_proj" in name else tp
        held += math.prod(tensor) / (1 if copied else parts)
    return held


@pytest.mark.parametrize("name", REFERENCE_MODELS)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_a_rank_holds_what_its_tensors_say(name: str, tp: int) -> None:
    """8 ranks are more than the models' 4 KV heads: each holds a whole one."""
    assert rank_parameters(SHAPES[name], tp) == pytest.approx(held_by_a_rank(REFERENCE_MODELS[name], tp), rel=0.001)


def test_every_rank_holds_a_little_more_than_its_share() -> None:
    whole = rank_parameters(SMALL, 1)
    assert whole / 2 < rank_parameters(SMALL, 2) < 0.51 * whole
    assert rank_parameters(SMALL, 8) > 1.04 * whole / 8, "KV heads are copied"


def test_the_vocabulary_is_padded_before_it_is_split() -> None:
    odd, padded = replace(SMALL, vocab_size=10_241), replace(SMALL, vocab_size=10_304)
    assert rank_parameters(odd, 2) == rank_parameters(padded, 2)


def test_untied_embeddings_count_twice() -> None:
    untied = replace(SMALL, tie_word_embeddings=False)
    assert rank_parameters(untied, 2) - rank_parameters(SMALL, 2) == 10_240 * 256 / 2


def test_bytes_follow_the_precision_or_what_tp1_really_held() -> None:
    assert rank_weight_bytes(SMALL, 2, 4) == 4 * rank_parameters(SMALL, 2)
    half = rank_parameters(SMALL, 2) / rank_parameters(SMALL, 1)
    assert rank_weight_bytes(SMALL, 2, 4, whole_bytes=1_000_000) == pytest.approx(1e6 * half)


def test_kv_heads_are_never_split() -> None:
    tokens = 1_000
    whole = rank_kv_bytes(SMALL, 1, tokens, 2)
    assert whole == 2 * 8 * 4 * 32 * 2 * tokens
    assert [rank_kv_bytes(SMALL, tp, tokens, 2) / whole for tp in (2, 4, 8)] == [0.5, 0.25, 0.25]


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        rank_parameters(SMALL, 0)
