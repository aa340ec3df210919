"""A result with something in every field."""

from __future__ import annotations

from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.plan import ParallelPlan
from common.core.stats import Estimate
from common.core.workload import Workload
from common.store.schema import Case, CaseError, Check, Result

WORK = Workload(requests=6, input_tokens=64, output_tokens=32, vocab_size=10_240, seed=4)


def measured_case() -> Case:
    return Case(
        "tp2/fixed/c2",
        ParallelPlan(tp=2),
        "fixed",
        WORK,
        ClosedLoop(2),
        flags=["host_shares_devices"],
        predicted=[Estimate("output_throughput", "tok/s", 80.0)],
        repeats=[
            {"start": 0, "repeat": 0, "duration": 2.5, "output_throughput": 76.8, "mean_ttft_ms": 37.25},
            {"start": 0, "repeat": 1, "duration": 2.0, "output_throughput": 96.0},
        ],
        summary=[Estimate("output_throughput", "tok/s", 85.9, 1.5, 4_900.0, 2)],
        engine={"version": "0.32.0", "weight_bytes_per_rank": [1, 2], "settings": {"eager": True, "block_size": None}},
        monitor={"cpu_utilisation_mean": 0.93},
        checks=[Check("first repeat agrees", False, "-20.0 %"), Check("not tried", None, "")],
    )


def sample_result(status: str = "interrupted", key: str = "key") -> Result:
    failed = Case("tp1/open", ParallelPlan(), "open", WORK, OpenLoop(2.5, 0.5, 4.0), status="failed")
    failed.error = CaseError("worker_died", "Worker proc VllmWorker-1 died unexpectedly", "Look at dmesg")
    result = Result(
        experiment="benchmark_scaling",
        method_version=1,
        run_id="20260101T000000Z-m-x",
        resume_key=key,
        argv=["--tp", "1", "2"],
        config={"model": "qwen2-9m", "nested": {"a": [1, None, "é"]}},
        environment={"devices": [{"name": "A CPU, 1 core"}], "unknown": None},
        cases=[measured_case(), failed],
        cost={"usd_per_hour": 7.6},
        warnings=["a warning"],
    )
    assert status in ("running", "interrupted", "complete")
    result.status = status  # type: ignore[assignment]
    return result
