"""What is asked of the step model: a model on devices under a plan and a load, as one of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.predict.hardware import Hardware, all_reduce_sizes, all_reduce_table
from common.predict.memory import expert_devices
from common.predict.step import CONTINUOUS, Floats, Rows


@dataclass(frozen=True)
class Ask:
    """What is to be served on what: a model, one kind of device, and a load in all."""

    shape: ModelShape
    hardware: Hardware
    bytes_per_weight: float
    input_tokens: int
    output_tokens: int
    concurrency: int

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')}: {getattr(self, name)}, and 1 is the least")


def model_figures(shape: ModelShape, hardware: Hardware, bytes_per_weight: float) -> dict[str, float]:
    """Columns of `Rows` that a model, with so many bytes per weight, and one device settle."""
    return {
        "layers": shape.num_hidden_layers,
        "hidden": shape.hidden_size,
        "heads": shape.num_attention_heads,
        "kv_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "intermediate": shape.intermediate_size,
        "vocabulary": shape.vocab_size,
        "experts": shape.num_experts,
        "experts_per_token": shape.num_experts_per_tok,
        "bytes_per_weight": bytes_per_weight,
        "flops": hardware.flops(bytes_per_weight),
        "bandwidth": hardware.bandwidth,
        "memory": hardware.memory_bytes,
        "link": hardware.link,
    }


def wanted_row(ask: Ask, plan: ParallelPlan, all_reduce_s: Floats | None = None) -> Rows:
    """The one row of a plan: output tokens per second of all its replicas.

    `all_reduce_s` are measured seconds at the sizes of `all_reduce_sizes`; by default what is kept of the hardware.
    """
    shape, hardware = ask.shape, ask.hardware
    ranks = expert_devices(shape, plan)
    table = all_reduce_table(hardware, ranks) if all_reduce_s is None else all_reduce_s
    columns: dict[str, float] = {
        **model_figures(shape, hardware, ask.bytes_per_weight),
        "kv_bytes": 2.0,
        "tp": plan.tp,
        "pp": plan.pp,
        "dp": plan.dp * plan.replicas,
        "expert_devices": ranks,
        "input_tokens": ask.input_tokens,
        "output_tokens": ask.output_tokens,
        "concurrency": ask.concurrency,
        "compiled": 0.0,
        "unit": 1.0,
    }
    return Rows(
        **{name: np.array([float(value)]) for name, value in columns.items()},
        all_reduce_bytes=all_reduce_sizes(),
        all_reduce_s=table[None, :] if ranks > 1 else np.zeros((1, len(table))),
        kind=np.array([CONTINUOUS]),
    )
