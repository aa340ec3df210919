"""Whether a model fits on the devices of a plan, and how much KV cache is left."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.core.legality import legal_tp_sizes
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


def expert_devices(shape: ModelShape, plan: ParallelPlan) -> int:
    """Devices over which MLPs or experts lie: vLLM's data-parallel ranks share experts, and nothing else."""
    return plan.tp * plan.dp if shape.num_experts else plan.tp


def fit(
    shape: ModelShape, hardware: Hardware, plan: ParallelPlan, bytes_per_weight: float, utilization: float = 0.9
) -> MemoryFit:
    """Memory of each device of one replica of a plan.

    Args:
        shape: The model.
        hardware: The devices.
        plan: The plan; it must be legal (`why_illegal`).
        bytes_per_weight: Bytes per weight; embeddings are kept at two.
        utilization: Share of the device that the engine may use (vLLM's --gpu-memory-utilization).
    """
    ranks = plan.tp * plan.pp
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    experts = 3 * shape.hidden_size * shape.intermediate_size * shape.num_experts * shape.num_hidden_layers
    everywhere = (shape.parameters - embeddings - experts) * bytes_per_weight + embeddings * max(bytes_per_weight, 2)
    weights = everywhere / ranks + experts * bytes_per_weight / (expert_devices(shape, plan) * plan.pp)
    other = RUNTIME_BYTES + (COMMUNICATION_BYTES if plan.devices_per_replica > 1 else 0)
    usable = hardware.memory_bytes * utilization
    left = usable - weights - other
    per_token = kv_bytes_per_token(shape, plan)
    tokens = max(math.floor(left / per_token), 0)
    return MemoryFit(usable, weights, other, tokens, max(-left, 0.0))


def kv_bytes_per_token(shape: ModelShape, plan: ParallelPlan, kv_bytes: float = 2.0) -> float:
    """Bytes that one token keeps on each device: KV heads are copied where there are more ranks than heads."""
    heads = max(shape.num_key_value_heads / plan.tp, 1)
    return 2 * shape.num_hidden_layers / plan.pp * heads * shape.head_dim * kv_bytes


def smallest_that_fits(
    shape: ModelShape, hardware: Hardware, bytes_per_weight: float, tokens: int = 1
) -> ParallelPlan | None:
    """The tensor-parallel plan of fewest devices, up to 64, that holds the model and so many tokens' KV cache."""
    plans = (ParallelPlan(tp=size) for size in legal_tp_sizes(shape))
    return next((plan for plan in plans if fit(shape, hardware, plan, bytes_per_weight).kv_tokens >= tokens), None)
