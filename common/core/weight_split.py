"""What each rank should hold when tensor parallelism splits a model's weights."""

from __future__ import annotations

from common.core.model_shape import ModelShape

VOCAB_PADDED_TO = 64  # rows of the embedding, in vLLM: DEFAULT_VOCAB_PADDING_SIZE of its VocabParallelEmbedding


def rank_parameters(shape: ModelShape, tp: int) -> int:
    """Weights that one of `tp` ranks holds.

    Attention heads, MLPs, experts and the padded vocabulary are split. Every rank has its own copy of the norms, of the
    routers of experts and, where there are fewer KV heads than ranks, of a whole KV head. Biases, where a model has
    some, are under 0.1 % and left out.

    Raises:
        ValueError: a size below 1.
    """
    if tp < 1:
        raise ValueError(f"a tensor-parallel size is 1 or more, not {tp}")
    heads, kv_heads = shape.num_attention_heads / tp, max(1.0, shape.num_key_value_heads / tp)
    attention = 2 * shape.hidden_size * shape.head_dim * (heads + kv_heads)
    mlp = 3 * shape.hidden_size * shape.intermediate_size * max(1, shape.num_experts) / tp
    copied = shape.hidden_size * (shape.num_experts + 2)
    rows = -(-shape.vocab_size // VOCAB_PADDED_TO) * VOCAB_PADDED_TO / tp
    embeddings = rows * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    return round(shape.num_hidden_layers * (attention + mlp + copied) + embeddings + shape.hidden_size)


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
