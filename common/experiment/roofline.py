"""How long work will take, before it begins. An estimate from assumed rates, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan

# Assumed per device, on the low side: seconds of an engine start, bytes/s of memory, operations/s, seconds per step.
ASSUMED = {"cpu": (14.0, 14e9, 110e9, 0.010), "gpu": (90.0, 1.0e12, 100e12, 0.008)}


@dataclass(frozen=True)
class Roofline:
    """Every step bound by memory, arithmetic or overhead (Williams et al., 2009), on an assumed kind of device."""

    shape: ModelShape
    device_kind: str

    def start_s(self, plan: ParallelPlan) -> float:
        """Seconds of one engine start; each more rank, or replica, adds a fifth."""
        return ASSUMED[self.device_kind][0] * (1 + 0.2 * (plan.devices - 1))

    def turn_s(self, plan: ParallelPlan, concurrency: int, input_tokens: int, output_tokens: int) -> float:
        """Seconds in which `concurrency` requests that begin together are answered."""
        _, bandwidth, rate, step_overhead_s = ASSUMED[self.device_kind]
        ranks = plan.tp * plan.pp
        in_batch = -(-concurrency // (plan.replicas * plan.dp))
        read_s = self.shape.parameters * self.shape.dtype_bytes / ranks / bandwidth
        step_s = max(read_s, 2 * self.shape.parameters * in_batch / ranks / rate) + step_overhead_s
        prefill_s = 2 * self.shape.parameters * in_batch * input_tokens / ranks / rate
        return prefill_s + output_tokens * step_s
