"""What the ranks of a plan say to each other: which operation, between how many ranks, how many bytes per token.

Bytes are those that one token's forward pass puts on the links of one engine, over all its ranks together. They follow
from the algorithm, not from a link: what an operation takes must be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan

Operation = Literal["all-reduce", "all-gather", "send/receive", "all-to-all"]

# Where each formula comes from
TWO_PER_LAYER = "Shoeybi et al., Megatron-LM, 2019: one after attention, one after the MLP; one more for the embedding"
RING = "Patarasuk and Yuan, JPDC 69(2), 2009: a ring sends 2(n-1)/n of the message per rank, and none sends less"
LOGITS = "vLLM's LogitsProcessor gathers the parts of the vocabulary, (n-1)/n of them per rank"
STAGES = "vLLM passes hidden states and residual on (models/qwen2.py), to each rank of the next stage"
EXPERTS = "vLLM's AgRsAll2AllManager: all-gather before the experts, reduce-scatter after them, (n-1)/n per rank each"


@dataclass(frozen=True)
class Exchange:
    """One kind of communication: `calls` per forward pass of an engine, each between `ranks` of its ranks.

    `message_bytes` is one token's part of one message; `bytes_per_token` what all calls together put on links.
    """

    operation: Operation
    purpose: str
    ranks: int
    calls: int
    message_bytes: int
    bytes_per_token: float
    source: str


def exchanges(plan: ParallelPlan, shape: ModelShape) -> list[Exchange]:
    """All communication of one engine of a plan; empty where ranks never talk, as replicas never do.

    Expert parallelism inside one TP group needs no operation of its own: every rank has every token, computes what its
    experts add to it, and the all-reduce after the MLP adds that up.
    """
    found = [*_tensor(plan, shape), *_pipeline(plan, shape), *_experts(plan, shape)]
    return [exchange for exchange in found if exchange.ranks > 1]


def bytes_per_token(plan: ParallelPlan, shape: ModelShape) -> float:
    """Bytes that one token puts on the links of its engine."""
    return sum(exchange.bytes_per_token for exchange in exchanges(plan, shape))


def _tensor(plan: ParallelPlan, shape: ModelShape) -> list[Exchange]:
    message, ranks = shape.all_reduce_bytes(1), plan.tp
    calls = shape.all_reduces_per_step - (shape.num_hidden_layers if _scatters_experts(plan, shape) else 0)
    logits = shape.vocab_size * shape.dtype_bytes
    return [
        Exchange(
            *("all-reduce", "partial sums of hidden states", ranks, calls, message),
            *(calls * 2 * (ranks - 1) * message, f"{TWO_PER_LAYER}; {RING}"),
        ),
        Exchange("all-gather", "logits of a new token", ranks, 1, logits, (ranks - 1) * logits, LOGITS),
    ]


def _pipeline(plan: ParallelPlan, shape: ModelShape) -> list[Exchange]:
    message, boundaries = 2 * shape.all_reduce_bytes(1), plan.pp - 1
    sent = plan.tp * boundaries * message
    ranks = 2 if boundaries else 1
    return [Exchange("send/receive", "hidden states and residual", ranks, plan.tp * boundaries, message, sent, STAGES)]


def _experts(plan: ParallelPlan, shape: ModelShape) -> list[Exchange]:
    if not _scatters_experts(plan, shape):
        return []
    message, ranks, calls = shape.all_reduce_bytes(1), plan.tp * plan.dp, 2 * shape.num_hidden_layers
    sent = calls * (ranks - 1) * message
    return [Exchange("all-to-all", "tokens to their experts and back", ranks, calls, message, sent, EXPERTS)]


def _scatters_experts(plan: ParallelPlan, shape: ModelShape) -> bool:
    """Whether experts lie over ranks that work on different tokens."""
    return shape.num_experts > 0 and plan.dp > 1
