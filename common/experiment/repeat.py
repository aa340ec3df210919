"""The numbers of one repeat: the client's, the server's, and how the two were doing meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from common.core.arrivals import ClosedLoop
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
SERVERS_COUNTS = {  # the names that the rises of the server's counters have in a repeat
    PREEMPTIONS: "preemptions",
    GENERATED: "server_output_tokens",
    PREFIX_QUERIES: "prefix_cache_queried_tokens",
    PREFIX_HITS: "prefix_cache_hit_tokens",
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


def watch_tokens(engine: Engine) -> CounterWatch:
    """A second opinion on generated tokens, once a second."""
    urls = [f"http://{endpoint.host}:{endpoint.port}" for endpoint in engine.endpoints]
    return CounterWatch(list(dict.fromkeys(urls)), GENERATED)


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
    for counter, name in SERVERS_COUNTS.items():
        if counter in after.counters:
            numbers[name] = after.counters[counter] - before.counters.get(counter, 0.0)
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


def spoilt(case: Case, numbers: Mapping[str, float]) -> bool:
    """Whether the client was held up so long that the repeat should be measured again."""
    return held_up(_evidence(case, numbers))


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
