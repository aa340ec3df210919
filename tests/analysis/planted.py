"""A synthetic result with known truth. Nothing here was measured: rates are chosen so that answers are exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.core.arrivals import ClosedLoop, Replay
from common.core.plan import ParallelPlan
from common.core.workload import RecordedWorkload, Workload
from common.store.schema import Case, CaseError, Check, Result

TP1, TP2, TP4 = ParallelPlan(), ParallelPlan(tp=2), ParallelPlan(tp=4)
X2 = ParallelPlan(replicas=2)
WEIGHT_BYTES = 20_971_520  # of the shape below, by hand: 8 layers x 1,146,880 + vocabulary 2,621,440, but tied, in bf16
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 10240,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "num_experts": 0,
    "num_experts_per_tok": 0,
    "dtype": "bfloat16",
}
ENVIRONMENT: dict[str, Any] = {
    "device_kind": "cpu",
    "devices": [{"index": 0, "name": "SYNTHETIC, 1 core"}, {"index": 1, "name": "SYNTHETIC, 1 core"}],
    "versions": {"vllm": "0.0.0"},
    "ceilings": {
        "devices": 2,
        "memory_scaling": 1.4,
        "memory_scaling_range": [1.3, 1.5],
        "matrix_scaling": 1.9,
        "matrix_scaling_range": [1.8, 2.0],
    },
}


def case(plan: ParallelPlan, curve: str, streams: int, rates: Sequence[float], *, one_start: bool = True) -> Case:
    """A case whose repeats have these throughputs; TPOT is what the streams leave, TTFT five times as much."""
    repeats = []
    for index, rate in enumerate(rates):
        tpot_ms = 1e3 * streams / rate
        start, repeat = (0, index) if one_start else (index, 0)
        repeats.append(
            {
                "start": float(start),
                "repeat": float(repeat),
                "duration": 2.0,
                "output_throughput": rate,
                "median_tpot_ms": tpot_ms,
                "median_ttft_ms": 5 * tpot_ms,
            }
        )
    work = Workload(4 * streams, 64, 32, 10240)
    made = Case(f"{plan}/{curve}/c{streams}", plan, curve, work, ClosedLoop(streams), repeats=repeats)
    if curve != "ladder":
        made.engine = engine(plan)
    return made


def replay(plan: ParallelPlan, latencies_ms: Sequence[float], time_scale: float = 0.5) -> Case:
    """A replayed trace: the median latencies are these, the throughput is what was offered, whatever the plan."""
    made = case(plan, "replay", 1, [64.0] * len(latencies_ms))
    made.id, made.arrivals = f"{plan}/replay/x{time_scale:g}", Replay(time_scale)
    made.workload = RecordedWorkload("trace", "0" * 64, 16, 64, 32)
    for repeat, latency_ms in zip(made.repeats, latencies_ms, strict=True):
        repeat["median_e2el_ms"] = latency_ms
    return made


def engine(plan: ParallelPlan, kv_cache_tokens: int = 524_288) -> dict[str, Any]:
    """What an engine of this plan says about itself."""
    facts: dict[str, Any] = {
        "startup_s": 40.0 + plan.devices,
        "kv_cache_tokens": kv_cache_tokens * plan.devices,
        "weight_bytes_per_rank": [WEIGHT_BYTES // plan.tp] * plan.devices,
        "memory_bytes_per_rank": [1_500_000_000] * plan.devices,
    }
    if plan.tp > 1:
        facts["all_reduce"] = [
            {"tokens": 1, "bytes": 512, "seconds": 20e-6, "path": "shm"},
            {"tokens": 16, "bytes": 8192, "seconds": 60e-6, "path": "shm"},
        ]
    return facts


def skipped(plan: ParallelPlan, curve: str, streams: int) -> Case:
    """A case that this machine has too few devices for."""
    made = case(plan, curve, streams, [])
    made.status, made.engine, made.flags = "skipped", {}, ["oversubscribed"]
    made.error = CaseError("too_few_devices", f"{plan} needs {plan.devices} devices, this machine has 2", "Use --tp 2.")
    return made


def result(cases: Sequence[Case], **changes: object) -> Result:
    """A complete result of these cases."""
    fields: dict[str, Any] = {
        "experiment": "benchmark_scaling",
        "method_version": 1,
        "run_id": "20260102T030405Z-2x1core-synthetic-qwen2-9m",
        "resume_key": "0",
        "argv": [],
        "config": {"model": "qwen2-9m", "model_shape": SHAPE},
        "environment": ENVIRONMENT,
        "status": "complete",
        "cases": list(cases),
    }
    return Result(**fields | changes)


def full() -> Result:
    """Every curve, a ladder that saturates and one that does not, replicas, skipped and failed plans, a price."""
    failed = case(X2, "saturated", 16, [])
    failed.status, failed.error = "failed", CaseError("out_of_memory", "no memory for the second replica", "Use tp2.")
    failed.engine = {}
    doubtful = case(TP2, "fixed", 16, [150.0, 156.0, 162.0])
    doubtful.checks = [Check("first repeat agrees", False, "output throughput -12.0% from the mean (limit 10%)")]
    cases = [
        case(TP1, "fixed", 1, [30.0, 31.0, 32.0]),
        case(TP2, "fixed", 1, [29.0, 32.0, 35.0]),
        case(X2, "fixed", 1, [29.0, 30.0, 31.0]),
        case(TP1, "fixed", 16, [99.0, 100.0, 101.0]),
        doubtful,
        case(X2, "fixed", 16, [168.0, 170.0, 172.0]),
        case(TP1, "saturated", 32, [119.0, 120.0, 121.0]),
        case(TP2, "saturated", 64, [196.0, 200.0, 204.0]),
        failed,
        case(TP1, "weak", 8, [79.0, 80.0, 81.0]),
        case(TP2, "weak", 16, [150.0, 152.0, 154.0]),
        *(skipped(TP4, curve, streams) for curve, streams in (("fixed", 1), ("fixed", 16), ("weak", 32))),
        *(case(TP1, "ladder", streams, [rate]) for streams, rate in ((16, 101.0), (32, 121.0), (64, 122.0))),
        *(case(TP2, "ladder", streams, [rate]) for streams, rate in ((16, 152.0), (32, 180.0), (64, 199.0))),
    ]
    return result(cases, cost={"usd_per_hour": 1.2}, warnings=["the machine was busy before the run"])
