"""How long a run will take and cost, before it begins. An estimate from a roofline, not a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.core.arrivals import Replay
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.experiment.cases import RUNG_TURNS, CaseSpec, Saturate

# Assumed per device, on the low side: seconds of an engine start, bytes/s of memory, operations/s, seconds per step.
ASSUMED = {"cpu": (28.0, 14e9, 110e9, 0.010), "gpu": (90.0, 1.0e12, 100e12, 0.008)}
OVERHEAD_S = 8.0  # imports, ceilings, reports
REPLAY_IN_FLIGHT = 16  # of a replay that comes faster than it is worked off


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    cases: int
    engine_starts: int
    seconds: float

    def usd(self, usd_per_hour: float | None) -> float | None:
        """Dollars at a price of the whole machine."""
        return None if usd_per_hour is None else usd_per_hour * self.seconds / 3600


def estimate(
    specs: Sequence[CaseSpec], starts: int, shape: ModelShape, device_kind: str, repeat_base_last: bool = False
) -> Estimate:
    """Starts and seconds of all cases; the first plan is the base, started once more where it is repeated last."""
    seconds: dict[tuple[ParallelPlan, ParallelPlan | None], float] = {}
    for spec in specs:
        one_start_s = ASSUMED[device_kind][0] * (1 + 0.2 * (spec.plan.devices - 1))
        seconds.setdefault(spec.engine, one_start_s)
        seconds[spec.engine] += case_seconds(spec, shape, device_kind)
    base_again = int(repeat_base_last)
    total = starts * sum(seconds.values()) + base_again * seconds[specs[0].engine]
    return Estimate(len(specs), len(seconds) * starts + base_again, OVERHEAD_S + total)


def case_seconds(spec: CaseSpec, shape: ModelShape, device_kind: str) -> float:
    """Seconds one case takes under one start, warm-up and search included."""
    match spec.load:
        case Saturate():
            return _saturating_seconds(spec, spec.load, shape, device_kind)
        case Replay():
            return _replay_seconds(spec, shape, device_kind) * (spec.repeats + 0.3)
        case streams:
            return _repeat_seconds(spec, streams, shape, device_kind) * (spec.repeats + 0.3)


def _saturating_seconds(spec: CaseSpec, saturate: Saturate, shape: ModelShape, device_kind: str) -> float:
    """The climb until a rung is not predicted to pay, and the repeats there."""
    short = replace(spec, turns=min(spec.turns, RUNG_TURNS))
    climb_s, best, best_rate = 0.0, saturate.first, 0.0
    for rung in saturate.rungs():
        rung_s = _repeat_seconds(short, rung, shape, device_kind)
        climb_s += 1.3 * rung_s
        if rung / rung_s < best_rate * (1 + saturate.min_gain):
            break
        best, best_rate = rung, rung / rung_s
    return climb_s + spec.repeats * _repeat_seconds(spec, best, shape, device_kind)


def _replay_seconds(spec: CaseSpec, shape: ModelShape, device_kind: str) -> float:
    """Until the last request comes and is answered, or, where they come too fast, until all are worked off."""
    in_flight = min(spec.turns, REPLAY_IN_FLIGHT)
    alone_s = _repeat_seconds(replace(spec, turns=1), 1, shape, device_kind)
    turn_s = _repeat_seconds(replace(spec, turns=1), in_flight, shape, device_kind)
    return max(spec.replayed_s + alone_s, turn_s * spec.turns / in_flight)


def _repeat_seconds(spec: CaseSpec, concurrency: int, shape: ModelShape, device_kind: str) -> float:
    """Turns x (one prefill + output steps), each step bound by memory, arithmetic or overhead."""
    plan: ParallelPlan = spec.plan
    _, bandwidth, rate, step_overhead_s = ASSUMED[device_kind]
    ranks = plan.tp * plan.pp
    in_batch = -(-concurrency // (plan.replicas * plan.dp))
    read_s = shape.parameters * shape.dtype_bytes / ranks / bandwidth
    step_s = max(read_s, 2 * shape.parameters * in_batch / ranks / rate) + step_overhead_s
    prefill_s = 2 * shape.parameters * in_batch * spec.lengths.input_tokens / ranks / rate
    return spec.turns * (prefill_s + spec.lengths.output_tokens * step_s)
