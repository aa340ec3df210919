"""The numbers of one repeat: the client's, the server's, and how the two were doing meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from common.core.arrivals import ClosedLoop
from common.core.fairness import jain, slot_tokens
from common.core.metrics import repeat_metrics
from common.core.steady import closed_loop_window, open_loop_window, slots_in_flight_share, steady_metrics
from common.core.verdict import ClientCeiling, ClientEvidence, Verdict, held_up, judge
from common.engines.engine import Engine
from common.load.client import LoadResult
from common.load.counters import CounterWatch
from common.store.schema import Case

PREEMPTIONS = "vllm:num_preemptions_total"
GENERATED = "vllm:generation_tokens_total"
PREFIX_QUERIES, PREFIX_HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
STEPS = "vllm:iteration_tokens_total_count"
QUEUED_S, QUEUED = "vllm:request_queue_time_seconds_sum", "vllm:request_queue_time_seconds_count"
WAITING = "vllm:num_requests_waiting"
SERVERS_COUNTS = {  # the names that the rises of the server's counters have in a repeat
    PREEMPTIONS: "preemptions",
    GENERATED: "server_output_tokens",
    PREFIX_QUERIES: "prefix_cache_queried_tokens",
    PREFIX_HITS: "prefix_cache_hit_tokens",
    STEPS: "engine_steps",
}


WORST_FIRST = ("INVALID", "DOUBTFUL", "VALID")


@dataclass(frozen=True)
class ServerState:
    """What the servers say of themselves at one moment."""

    at_s: float
    counters: dict[str, float]
    front_end_cpu_s: list[float]


def ask(engine: Engine) -> ServerState:
    """The engine's state now.

    Raises:
        EngineError: it does not answer.
    """
    return ServerState(time.monotonic(), engine.metrics(), engine.front_end_cpu_s())


def watch_tokens(engine: Engine, before: ServerState) -> CounterWatch:
    """A second opinion on generated tokens, and the length of the queue, once a second; none where it keeps none."""
    urls = [endpoint.origin for endpoint in engine.endpoints] if GENERATED in before.counters else []
    return CounterWatch(list(dict.fromkeys(urls)), GENERATED, WAITING)


def repeat_numbers(  # the two sides of one repeat, and what it is held to
    case: Case,
    loaded: LoadResult,
    before: ServerState,
    after: ServerState,
    tokens: CounterWatch,
    slo_ms: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Flat numbers with the keys of `vllm bench serve`; `steady_` ones where the repeat has a steady window."""
    numbers = repeat_metrics(loaded.records, loaded.duration_s, slo_ms)
    closed = isinstance(case.arrivals, ClosedLoop)
    window = (
        closed_loop_window(loaded.records, case.arrivals.concurrency)
        if isinstance(case.arrivals, ClosedLoop)
        else open_loop_window(loaded.records)
    )
    if window is not None:
        numbers |= steady_metrics(loaded.records, window, open_loop=not closed)
        generated = tokens.increase(window.begin_ns, window.end_ns)
        if generated is not None:
            numbers["steady_server_output_throughput"] = generated / window.seconds
    if isinstance(case.arrivals, ClosedLoop):
        in_flight = slots_in_flight_share(loaded.records, case.arrivals.concurrency)
        numbers |= {} if in_flight is None else {"slots_in_flight_share": in_flight}
        evenly = jain(slot_tokens(loaded.records, case.arrivals.concurrency) or [])
        numbers |= {} if evenly is None else {"slot_fairness": evenly}
    numbers |= {f"slo_{name}_ms": limit for name, limit in (slo_ms or {}).items()}
    numbers |= servers_counts(before, after)
    numbers |= _queueing(before, after, tokens.levels(loaded.begin_ns, loaded.end_ns))
    used = [late - early for early, late in zip(before.front_end_cpu_s, after.front_end_cpu_s, strict=False)]
    if used:
        numbers["front_end_cpu_share"] = max(used) / (after.at_s - before.at_s)
    return numbers | {
        "benchmark_start_time_unix": loaded.begin_unix_s,
        "client_cpu_share": loaded.client_cpu_s / loaded.duration_s,
        "loop_delay_ms": 1e3 * loaded.loop_lag.delay_s,
        "loop_lag_p99_ms": 1e3 * loaded.loop_lag.p99_s,
        "loop_lag_max_ms": 1e3 * loaded.loop_lag.max_s,
    }


def servers_counts(before: ServerState, after: ServerState) -> dict[str, float]:
    """What the servers counted between two moments, as far as they count."""
    return {
        name: after.counters[counter] - before.counters.get(counter, 0.0)
        for counter, name in SERVERS_COUNTS.items()
        if counter in after.counters
    }


def spoilt(case: Case, numbers: Mapping[str, float]) -> bool:
    """Whether the client was held up so long that the repeat should be measured again."""
    return held_up(_evidence(case, numbers))


def _queueing(before: ServerState, after: ServerState, waiting: list[float]) -> dict[str, float]:
    """How long requests waited at the server before it worked on them, and how many did, by its own account."""
    found: dict[str, float] = {}
    if QUEUED in before.counters and QUEUED in after.counters:
        count = after.counters[QUEUED] - before.counters[QUEUED]
        seconds = after.counters.get(QUEUED_S, 0.0) - before.counters.get(QUEUED_S, 0.0)
        found |= {"mean_queue_ms": 1e3 * seconds / count} if count > 0 else {}
    if waiting:
        found |= {"mean_requests_waiting": sum(waiting) / len(waiting), "max_requests_waiting": max(waiting)}
    return found


def client_verdict(case: Case, ceiling: ClientCeiling | None) -> Verdict | None:
    """The worst that can be said of the client in any of the case's repeats; `None` before the first."""
    found = [judge(_evidence(case, repeat), ceiling) for repeat in case.repeats]
    return min(found, key=lambda verdict: WORST_FIRST.index(verdict.word), default=None)


def _evidence(case: Case, numbers: Mapping[str, float]) -> ClientEvidence:
    def seconds(name: str) -> float | None:
        return numbers[name] / 1e3 if name in numbers else None

    closed = isinstance(case.arrivals, ClosedLoop)
    return ClientEvidence(
        loop_delay_s=seconds("loop_delay_ms"),
        loop_lag_p99_s=seconds("loop_lag_p99_ms"),
        client_cpu_share=numbers.get("client_cpu_share"),
        streams=round(numbers.get("max_concurrent_requests", 0)) or None,
        tokens_per_s=numbers.get("output_throughput"),
        lateness_p99_s=None if closed else seconds("p99_lateness_ms"),
        slots_in_flight_share=numbers.get("slots_in_flight_share"),
        front_end_cpu_share=numbers.get("front_end_cpu_share"),
        shares_cores="host_shares_devices" in case.flags,
        mean_ttft_s=seconds("mean_ttft_ms"),
        mean_tpot_s=seconds("mean_tpot_ms"),
    )
