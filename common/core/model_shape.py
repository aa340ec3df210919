"""What a model's config.json says about its size: parameters, KV cache, and what it sends between ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 10**9  # of any dimension
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of a decoder-only transformer; names follow Hugging Face configs."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    num_experts: int
    num_experts_per_tok: int
    dtype: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a Hugging Face config.

        Raises:
            ValueError: a needed field is missing; the message names it.
        """
        if not isinstance(config, Mapping):
            raise ValueError("config.json is not a JSON object")
        nested = config.get("text_config")  # vision-language models nest the language part
        config = {**config, **nested} if isinstance(nested, Mapping) else config

        def need(*names: str) -> int:
            for name in names:
                if config.get(name) is not None:
                    return _whole(config, name)
            raise ValueError(f"config.json has no '{names[0]}'")

        def given(default: int, *names: str) -> int:
            return need(*names) if any(config.get(name) for name in names) else default

        hidden, heads = need("hidden_size", "n_embd"), need("num_attention_heads", "n_head")
        experts = given(0, "num_experts", "num_local_experts", "n_routed_experts")
        mlp = need("moe_intermediate_size", "intermediate_size") if experts else need("intermediate_size", "n_inner")
        return cls(
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=need("num_hidden_layers", "n_layer"),
            num_attention_heads=heads,
            num_key_value_heads=given(heads, "num_key_value_heads"),
            head_dim=given(max(hidden // heads, 1), "head_dim"),
            vocab_size=need("vocab_size"),
            max_position_embeddings=need("max_position_embeddings", "n_positions"),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            num_experts=experts,
            num_experts_per_tok=given(0, "num_experts_per_tok"),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"),
        )

    @property
    def dtype_bytes(self) -> int:
        """Bytes per weight at the model's own precision."""
        return DTYPE_BYTES.get(self.dtype, 2)

    @property
    def parameters(self) -> int:
        """Weights in matrices (norms and biases, well under 0.1 %, left out)."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size * max(1, self.num_experts)
        router = self.hidden_size * self.num_experts
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * (attention + mlp + router) + embeddings

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values one token keeps, over all layers and ranks."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * self.dtype_bytes

    @property
    def all_reduces_per_step(self) -> int:
        """All-reduces in one forward pass under tensor parallelism: two per layer and one for the embedding."""
        return 2 * self.num_hidden_layers + 1

    def all_reduce_bytes(self, tokens: int) -> int:
        """Bytes of one all-reduce in a step that works on `tokens` tokens."""
        return tokens * self.hidden_size * self.dtype_bytes


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < LARGEST:
        raise ValueError(f"config.json's '{name}' is {str(value)[:40]}: a whole number from 1 is needed")
    return value
