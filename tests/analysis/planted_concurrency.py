"""A synthetic concurrency result with known truth: a closed network whose power is largest at 16 clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.plan import ParallelPlan
from common.core.workload import Workload
from common.store.schema import Case, Result
from tests.analysis.planted import ENVIRONMENT, SHAPE, TP1, TP2

TOKENS = 32
LADDER = (1, 4, 16, 64)
OFF = (0.999, 1.0, 1.001)  # of the three repeats
IDEAL_S, BOTTLENECK_S = 1.0, 1 / 17


def closed(plan: ParallelPlan, clients: int, speed: float = 1.0, off: Sequence[float] = OFF) -> Case:
    """n / (D + (n - 1) d) requests per second; TTFT is a tenth of the response time, its p99 a fifth."""
    rate = speed * clients / (IDEAL_S + (clients - 1) * BOTTLENECK_S)
    repeats = [_repeat(place, rate * share, 1e3 * clients / (rate * share)) for place, share in enumerate(off)]
    for repeat in repeats:
        repeat |= {"slot_fairness": 0.99} if clients > 1 else {}
        repeat |= {"good_fraction": 1.0 if clients <= 16 else 0.5, "mean_queue_ms": 2.0 * clients}
        repeat |= {"max_requests_waiting": float(clients // 8), "completed": 2.0 * clients}
    work = Workload(2 * clients, TOKENS, TOKENS, 10240)
    return Case(f"{plan}/closed/c{clients}", plan, "closed", work, ClosedLoop(clients), repeats=repeats)


def _repeat(place: int, requests_per_s: float, response_ms: float) -> dict[str, float]:
    return {
        "start": 0.0,
        "repeat": float(place),
        "duration": 2.0,
        "output_throughput": TOKENS * requests_per_s,
        "mean_e2el_ms": response_ms,
        "p50_ttft_ms": response_ms / 10,
        "p99_ttft_ms": response_ms / 5,
        "p50_tpot_ms": response_ms / TOKENS,
        "p99_tpot_ms": response_ms / TOKENS * 2,
        "slo_ttft_ms": 1000.0,
        "slo_tpot_ms": 100.0,
    }


def open_loop(plan: ParallelPlan, rate: float) -> Case:
    """Everything that comes is answered in a second."""
    repeats = [_repeat(place, rate * share, 1e3) | {"completed": 200.0} for place, share in enumerate(OFF)]
    work = Workload(200, TOKENS, TOKENS, 10240)
    return Case(f"{plan}/open/r{rate:g}", plan, "open", work, OpenLoop(rate), repeats=repeats)


def batch(plan: ParallelPlan, gains: Sequence[float]) -> Case:
    """Singles give 100 tok/s, one request so many times as much."""
    repeats = [
        {"start": 0.0, "repeat": float(place), "duration": 1.0, "output_throughput": 100.0, "completed": 16.0}
        | {"batch_output_throughput": 100.0 * gain, "batch_first": float(place % 2)}
        for place, gain in enumerate(gains)
    ]
    work = Workload(16, TOKENS, TOKENS, 10240)
    return Case(f"{plan}/batch/n16", plan, "batch", work, ClosedLoop(16), repeats=repeats)


def offline(plan: ParallelPlan, gains: Sequence[float]) -> Case:
    """So many times the 100 tok/s of the singles in `batch`."""
    case = batch(plan, [1.0] * len(gains))
    case.id, case.curve = f"{plan}/batch-offline/n16", "batch-offline"
    for repeat, gain in zip(case.repeats, gains, strict=True):
        repeat["output_throughput"] *= gain
    return case


def full() -> Result:
    """Two plans, the second half as fast again; a batch that gains nothing on one and a fifth on the other.

    An offline batch on the first gains a tenth.
    """
    cases = [closed(TP1, clients) for clients in LADDER] + [closed(TP2, clients, 1.5) for clients in LADDER]
    cases += [
        open_loop(TP1, 4.0),
        batch(TP1, (0.99, 1.0, 1.01)),
        offline(TP1, (1.09, 1.1, 1.11)),
        batch(TP2, (1.19, 1.2, 1.21)),
    ]
    return result(cases)


def result(cases: list[Case], **config: Any) -> Result:  # noqa: ANN401  # a result's own free field
    configured = {"model": "synthetic", "model_shape": SHAPE, "engine_settings": {}} | config
    name, run_id = "simulate_concurrent_requests", "20260101T000000Z-synthetic"
    return Result(name, 1, run_id, "key", [], configured, dict(ENVIRONMENT), "complete", cases)
