"""How long work will take, before it begins. An estimate from assumed rates, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan

# Assumed per device, on the low side: bytes/s of memory, operations/s, seconds per step.
RATES = {"cpu": (14e9, 150e9, 0.010), "gpu": (1.0e12, 100e12, 0.008)}
STARTS = {"cpu": (7.0, 0.1, 0.9), "gpu": (90.0, 0.2, 0.2)}
"""Seconds of an engine's start and end, and the shares of it that each more rank, and each more replica, adds.

CPU: measured on two cores, 126M parameters, with what is forked imported already: 3 s, and 5 more where all-reduces are
timed; an end is 1 s. The imports are made once in a run."""
IMPORTS_S = {"cpu": 12.0, "gpu": 0.0}


@dataclass(frozen=True)
class Roofline:
    """Every step bound by memory, arithmetic or overhead (Williams et al., 2009), on an assumed kind of device."""

    shape: ModelShape
    device_kind: str

    @property
    def once_s(self) -> float:
        """Seconds of a run's first engine start that no later one needs."""
        return IMPORTS_S[self.device_kind]

    def start_s(self, plan: ParallelPlan) -> float:
        """Seconds of one engine start and of its end."""
        one_s, more_ranks, more_replicas = STARTS[self.device_kind]
        more = more_ranks * (plan.devices_per_replica - 1) + more_replicas * (plan.replicas - 1)
        return one_s * (1 + more)

    def turn_s(self, plan: ParallelPlan, concurrency: int, input_tokens: int, output_tokens: int) -> float:
        """Seconds in which `concurrency` requests that begin together are answered.

        A token goes through all pipeline stages, so these share neither the reading of weights nor fixed costs: they
        only work on requests side by side.
        """
        bandwidth, rate, step_overhead_s = RATES[self.device_kind]
        ranks = plan.tp * plan.pp
        in_batch = -(-concurrency // (plan.replicas * plan.dp))
        read_s = self.shape.parameters * self.shape.dtype_bytes / plan.tp / bandwidth
        step_s = max(read_s, 2 * self.shape.parameters * in_batch / ranks / rate) + plan.pp * step_overhead_s
        prefill_s = 2 * self.shape.parameters * in_batch * input_tokens / ranks / rate
        return prefill_s + output_tokens * step_s
