"""A synthetic result of mixed load with known truth. Nothing here was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.core.arrivals import Replay
from common.core.mix import MixedWorkload, RequestClass
from common.core.plan import ParallelPlan
from common.core.verdict import Verdict
from common.store.schema import Case, CaseError, Result
from tests.analysis.planted import ENVIRONMENT, SHAPE

WORK = MixedWorkload((RequestClass("short", 32, 32, 16), RequestClass("long", 2, 2048, 16, None)), 8.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "on": {"enable_chunked_prefill": True, "max_num_batched_tokens": 512},
    "off": {"enable_chunked_prefill": False, "max_num_batched_tokens": 2304},
    "control": {"enable_chunked_prefill": True, "max_num_batched_tokens": 2304},
    "threshold": {
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": 512,
        "long_prefill_token_threshold": 128,
    },
}


def mixed_case(
    variant: str,
    *,
    ttft_ms: Sequence[float] = (4900.0, 5000.0, 5100.0),
    halt_ms: Sequence[float] = (4000.0, 4100.0, 4200.0),
    long_ms: Sequence[float] = (5000.0, 5050.0, 5100.0),
    plan: ParallelPlan | None = None,
    starts: bool = False,
) -> Case:
    """A case whose short class has these p99 TTFTs and longest gaps, and whose long class has these TTFTs.

    Alone a short request takes 50 ms to its first token, 350 ms in all, and never stands still for more than 20 ms.
    """
    repeats = []
    for index, (ttft, halt, long) in enumerate(zip(ttft_ms, halt_ms, long_ms, strict=True)):
        numbers = {"start": index if starts else 0, "repeat": 0 if starts else index, "duration": 10.0}
        for name, alone_ms, total_ms in (("short", 50.0, 350.0), ("long", 4900.0, 5300.0)):
            first_ms = ttft if name == "short" else long
            whole_ms = first_ms + total_ms - alone_ms
            numbers |= {
                f"{name}_requests": 32 if name == "short" else 2,
                f"{name}_failed": 0,
                f"{name}_starved": 5 if name == "short" else 0,
                f"{name}_p50_ttft_ms": first_ms,
                f"{name}_p99_ttft_ms": first_ms,
                f"{name}_p50_e2el_ms": whole_ms,
                f"{name}_p99_e2el_ms": whole_ms,
                f"{name}_max_itl_ms": halt if name == "short" else 25.0,
                f"alone_{name}_p99_ttft_ms": alone_ms,
                f"alone_{name}_p99_e2el_ms": total_ms,
                f"alone_{name}_max_itl_ms": 20.0,
                f"{name}_p99_ttft_slowdown": first_ms / alone_ms,
                f"{name}_p99_e2el_slowdown": whole_ms / total_ms,
                f"{name}_p99_ttft_over_alone": first_ms / alone_ms,
                f"{name}_p99_e2el_over_alone": whole_ms / total_ms,
                f"{name}_max_itl_over_alone": (halt if name == "short" else 25.0) / 20.0,
                f"{name}_jain": 0.5,
            }
        repeats.append({key: float(value) for key, value in numbers.items()})
    plan = plan or ParallelPlan()
    curve = f"mix-{variant}"
    made = Case(f"{plan}/{curve}", plan, curve, WORK, Replay(1.0), repeats=repeats, client=Verdict("VALID"))
    made.engine = {"settings": SETTINGS.get(variant, {})}
    return made


def mixed_result(cases: Sequence[Case]) -> Result:
    """A complete run of these cases."""
    return Result(
        experiment="test_mixed_workload",
        method_version=1,
        run_id="20260102T000000Z-synthetic-qwen2-9m",
        resume_key="",
        argv=[],
        config={"model": "qwen2-9m", "model_shape": SHAPE},
        environment=ENVIRONMENT,
        status="complete",
        cases=list(cases),
    )


def on_and_off() -> Result:
    """Chunked prefill: running answers stand still for a quarter of the time, nothing else changes."""
    return mixed_result([mixed_case("on", halt_ms=(1000.0, 1025.0, 1050.0)), mixed_case("off")])


def failed_case(variant: str) -> Case:
    """An engine that did not do as it was told."""
    made = mixed_case(variant)
    made.repeats, made.status = [], "failed"
    made.error = CaseError("variant_ignored", "vLLM took other settings than it was given", "Look at the log")
    return made
