"""How many weights and how much KV cache each rank of a plan should hold."""

from __future__ import annotations

from common.core.layout import RankShare, layout
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan

VOCAB_PADDED_TO = 64  # rows of the embedding, in vLLM: DEFAULT_VOCAB_PADDING_SIZE of its VocabParallelEmbedding


def share_parameters(shape: ModelShape, share: RankShare, tp: int) -> int:
    """Weights that a rank holds which is one of `tp` in its stage.

    Attention heads, MLPs, experts and the padded vocabulary are split. Every rank has its own copy of the norms, of the
    routers of experts and, where there are fewer KV heads than ranks, of a whole KV head. The first stage has the
    embedding, the last the head; where they are tied, both hold the same rows. Biases, where a model has some, are
    under 0.1 % and left out.
    """
    attention = 2 * shape.hidden_size * shape.head_dim * (len(share.heads) + len(share.kv_heads))
    mlp = 3 * shape.hidden_size * shape.intermediate_size * max(1, len(share.experts)) / share.mlp_parts
    copied = shape.hidden_size * (shape.num_experts + 2)
    rows = -(-shape.vocab_size // VOCAB_PADDED_TO) * VOCAB_PADDED_TO / tp
    ends = int(share.first_stage) + int(share.last_stage)
    ends -= int(ends == 2 and shape.tie_word_embeddings)
    final_norm = shape.hidden_size if share.last_stage else 0
    return round(len(share.layers) * (attention + mlp + copied) + ends * rows * shape.hidden_size + final_norm)


def plan_parameters(shape: ModelShape, plan: ParallelPlan) -> list[int]:
    """Weights of every rank of a plan, in order of devices.

    Raises:
        ValueError: the layers do not make the plan's stages.
    """
    return [share_parameters(shape, share, plan.tp) for share in layout(plan, shape)]


def rank_parameters(shape: ModelShape, tp: int) -> int:
    """Weights that one of `tp` ranks holds.

    Raises:
        ValueError: a size below 1.
    """
    if tp < 1:
        raise ValueError(f"a tensor-parallel size is 1 or more, not {tp}")
    return max(plan_parameters(shape, ParallelPlan(tp=tp)))


def rank_weight_bytes(shape: ModelShape, tp: int, bytes_per_weight: float, whole_bytes: int | None = None) -> float:
    """Bytes of weights that each of `tp` ranks should hold.

    With `whole_bytes`, what one rank of TP=1 really held, its share of that: biases and quantisation, which the shape
    does not tell, are then in it.
    """
    parameters = rank_parameters(shape, tp)
    if whole_bytes is None:
        return parameters * bytes_per_weight
    return whole_bytes * parameters / rank_parameters(shape, 1)


def rank_kv_bytes(shape: ModelShape, tp: int, tokens: int, bytes_per_value: float) -> float:
    """Bytes that keys and values of so many tokens take on one of `tp` ranks; KV heads are never split."""
    heads = max(1.0, shape.num_key_value_heads / tp)
    return 2 * shape.num_hidden_layers * heads * shape.head_dim * bytes_per_value * tokens
