"""Whether a model fits on the devices of a plan, and how much KV cache is left."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.predict.hardware import Hardware

RUNTIME_BYTES = 2.5e9  # context, kernels, CUDA graphs, activations: 2 to 3.5 GB on vLLM
COMMUNICATION_BYTES = 0.37e9  # NCCL's buffers per rank: 342 to 392 MB (AIConfigurator's measured tables)


@dataclass(frozen=True)
class MemoryFit:
    """Bytes on one device of a plan, and what they allow."""

    usable_bytes: float
    weight_bytes: float
    other_bytes: float
    kv_tokens: int
    """Tokens of KV cache of one replica, over all its devices; 0 where the model does not fit."""
    missing_bytes: float
    """What is short on each device; 0 where the model fits."""

    @property
    def fits(self) -> bool:
        """Whether weights and runtime leave room for at least one token."""
        return self.kv_tokens > 0

    def largest_concurrency(self, input_tokens: int, output_tokens: int) -> int:
        """Requests of this length whose KV cache fits at once, each at its full length.

        Raises:
            ValueError: a length below 1.
        """
        if min(input_tokens, output_tokens) < 1:
            raise ValueError("lengths are 1 token or more")
        return self.kv_tokens // (input_tokens + output_tokens)


def check_divides(shape: ModelShape, plan: ParallelPlan) -> None:
    """Check that a plan can hold the model's heads and layers.

    Raises:
        ValueError: it cannot; the message names the sizes that can.
    """
    legal = [size for size in range(1, shape.num_attention_heads + 1) if _tp_divides(shape, size)]
    if plan.tp not in legal:
        raise ValueError(
            f"tp{plan.tp} does not divide {shape.num_attention_heads} attention heads"
            f" and {shape.num_key_value_heads} KV heads; sizes that do: {', '.join(map(str, legal[:8]))}"
        )
    if plan.pp > shape.num_hidden_layers:
        raise ValueError(f"pp{plan.pp} is more stages than the model has layers ({shape.num_hidden_layers})")


def fit(
    shape: ModelShape, hardware: Hardware, plan: ParallelPlan, weight_bytes: float, utilization: float = 0.9
) -> MemoryFit:
    """Memory of each device of one replica of a plan.

    Args:
        shape: The model.
        hardware: The devices.
        plan: The plan; its heads and layers must divide (`check_divides`).
        weight_bytes: Bytes per weight; embeddings are kept at two.
        utilization: Share of the device that the engine may use (vLLM's --gpu-memory-utilization).
    """
    ranks = plan.tp * plan.pp
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    weights = ((shape.parameters - embeddings) * weight_bytes + embeddings * max(weight_bytes, 2)) / ranks
    other = RUNTIME_BYTES + (COMMUNICATION_BYTES if ranks > 1 else 0)
    usable = hardware.memory_bytes * utilization
    left = usable - weights - other
    per_token = kv_bytes_per_token(shape, plan)
    tokens = max(math.floor(left / per_token), 0)
    return MemoryFit(usable, weights, other, tokens, max(-left, 0.0))


def kv_bytes_per_token(shape: ModelShape, plan: ParallelPlan, kv_bytes: float = 2.0) -> float:
    """Bytes that one token keeps on each device: KV heads are copied where there are more ranks than heads."""
    heads = max(shape.num_key_value_heads / plan.tp, 1)
    return 2 * shape.num_hidden_layers / plan.pp * heads * shape.head_dim * kv_bytes


def smallest_that_fits(shape: ModelShape, hardware: Hardware, weight_bytes: float) -> ParallelPlan | None:
    """The tensor-parallel plan of fewest devices, up to 64, that holds the model; None where none does."""
    for size in range(1, 65):
        plan = ParallelPlan(tp=size)
        if _tp_divides(shape, size) and fit(shape, hardware, plan, weight_bytes).fits:
            return plan
    return None


def _tp_divides(shape: ModelShape, size: int) -> bool:
    kv = shape.num_key_value_heads
    return shape.num_attention_heads % size == 0 and (kv % size == 0 or size % kv == 0)
