"""Real vLLM under a plan: all its replicas as one engine, and what starts them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.workload import Workload
from common.engines import startup
from common.engines.engine import AllReduceTime, EngineFacts, TracedAllReduces
from common.engines.failures import EngineError, Failure, explain
from common.engines.guarded import Gone
from common.engines.models import shape_of
from common.engines.settings import EngineSettings
from common.engines.vllm_server import RPC_TIMEOUT_S, VllmServer
from common.load import control
from common.load.client import Endpoint, run_load
from common.machine.devices import Device

TRACED_STREAMS, TRACED_TOKENS = 16, 12


class VllmEngine:
    """All replicas of a plan; implements `Engine`."""

    def __init__(self, plan: ParallelPlan, servers: Sequence[VllmServer], tokens_to_time: Sequence[int]) -> None:
        self.plan = plan
        self._servers = servers
        first = servers[0]
        # Ranks that take turns on a device wait for it, and not for each other's messages: that says nothing
        self._links = plan.tp > 1 and len(set(first.devices)) == len(first.devices)
        kv_tokens = [server.kv_cache_tokens() for server in servers]
        self.facts = EngineFacts(
            version=asyncio.run(control.version(first.base_url)),
            startup_s=max(server.startup_s for server in servers),
            startup_phases_s=first.clock.phases_s,
            kv_cache_tokens=sum(kv for kv in kv_tokens if kv is not None) if None not in kv_tokens else None,
            weight_bytes_per_rank=_told_by_ranks(servers, "weight_bytes"),
            load_report_bytes_per_rank=_told_by_ranks(servers, "load_report_bytes"),
            layers_per_rank=[tuple(rank["layers"]) for server in servers for rank in server.ranks if rank["layers"]],
            experts_per_rank=_told_by_ranks(servers, "experts"),
            memory_bytes_per_rank=[used for server in servers for used in server.memory_bytes_per_rank()],
            settings=first.ranks[0]["settings"],
            all_reduce=_time_all_reduces(first, tokens_to_time) if self._links else [],
        )
        for server in servers:
            server.process.serving()

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """One per replica."""
        return [server.endpoint for server in self._servers]

    def pids(self) -> list[int]:
        """Every process of the engine."""
        return [pid for server in self._servers for pid in server.process.pids()]

    def metrics(self) -> dict[str, float]:
        """The servers' own counters and gauges now, summed over replicas.

        Raises:
            EngineError: a server does not answer.
        """
        total: dict[str, float] = {}
        with self._asking():
            for server in self._servers:
                for name, value in asyncio.run(control.scrape_metrics(server.base_url)).items():
                    total[name] = total.get(name, 0.0) + value
        return total

    def front_end_cpu_s(self) -> list[float]:
        """CPU seconds that each replica's API server has used; empty where one cannot be asked."""
        used = [server.front_end_cpu_s() for server in self._servers]
        return [seconds for seconds in used if seconds is not None] if None not in used else []

    def slow_all_reduces(self, delay_us: float, tokens: Sequence[int]) -> list[AllReduceTime]:
        """Have each all-reduce wait so long first, from now on (0: as it was), on CPUs; times those of so many tokens.

        Raises:
            EngineError: a server does not answer.
        """
        with self._asking():
            for server in self._servers:
                server.ask_ranks("lab_slow_all_reduces", str(delay_us))
            return _time_all_reduces(self._servers[0], tokens)

    def trace_all_reduces(self) -> TracedAllReduces | None:
        """Profile a short run; `None` where there is nothing to see. Last of all: profiled ranks stay slower.

        By a tenth at one stream on CPUs, for as long as they live: TP=2 would be compared with an unprofiled TP=1.

        Raises:
            EngineError: a server does not answer.
        """
        if not self._links or self._servers[0].settings.offline:
            return None
        with self._asking():
            return _trace_all_reduces(self._servers[0])

    def alive(self) -> bool:
        """Whether its processes run; cheap enough to ask four times a second under load."""
        return all(server.process.alive for server in self._servers)

    def death(self) -> Failure | None:
        """Why the engine no longer serves, or None while it does."""
        for server in self._servers:
            if not server.process.alive:
                code = server.process.returncode
                return explain(startup.read_log(server.process.log), f"vLLM ended with exit code {code}")
            if not asyncio.run(control.is_healthy(server.base_url)):
                return explain(startup.read_log(server.process.log), "vLLM no longer answers /health")
        return None

    def stop(self) -> Gone:
        """End every replica and prove that nothing is left: processes, port, shared memory, device memory."""
        gone = _together([server.process.stop() for server in self._servers])
        left = sum(server.device_memory_left_bytes() for server in self._servers)
        return replace(gone, device_memory_left_bytes=left)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """A server that does not answer is an `EngineError`, and the engine's death its reason if it has died."""
        try:
            yield
        except control.ControlError as error:
            raise EngineError(self.death() or _no_answer(error)) from error


class VllmLauncher:
    """Starts real vLLM; implements `StartsEngines`."""

    def __init__(self, logs: Path, tokens_to_time: Sequence[int], say: Callable[[str], None]) -> None:
        """Logs are kept in the folder `logs`; `tokens_to_time` are the batch sizes whose all-reduce is timed."""
        self._logs, self._tokens_to_time, self._say = logs, tokens_to_time, say
        self._starts = 0

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> VllmEngine:
        """Start an engine and return it once it serves.

        Raises:
            EngineError: it did not start; nothing of it is left, and its log is kept.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        self._starts += 1
        shape = shape_of(Path(settings.model))
        limit_s = startup.deadline_s(shape.parameters * shape.dtype_bytes, settings.eager) * plan.replicas
        with ExitStack() as until_up:
            servers = []
            for replica in range(plan.replicas):
                first = replica * plan.devices_per_replica
                log = self._logs / f"{self._starts:02d}-{plan}-{replica}.log"
                share = devices[first : first + plan.devices_per_replica]
                server = VllmServer(plan, share, settings, log)
                until_up.callback(server.process.stop)
                servers.append(server)
            try:
                for server in servers:
                    server.wait(limit_s, self._say)
                engine = VllmEngine(plan, servers, self._tokens_to_time)
            except control.ControlError as error:
                raise EngineError(_no_answer(error)) from error
            until_up.pop_all()
        return engine


def vllm_is_installed() -> bool:
    """Whether this environment can start engines (Linux, and the module is there), without importing it."""
    from importlib.util import find_spec

    return sys.platform == "linux" and find_spec("vllm") is not None


def _no_answer(error: control.ControlError) -> Failure:
    return Failure("no_answer", str(error), "The engine's log may say more")


def _told_by_ranks(servers: Sequence[VllmServer], name: str) -> list[int]:
    return [int(rank[name]) for server in servers for rank in server.ranks if rank[name]]


def _time_all_reduces(server: VllmServer, tokens: Sequence[int]) -> list[AllReduceTime]:
    times = []
    for count in sorted(set(tokens)):
        ranks = server.ask_ranks("lab_time_all_reduce", str(count))
        slowest = max(ranks, key=lambda rank: float(rank["seconds"]))
        times.append(AllReduceTime(count, int(slowest["bytes"]), float(slowest["seconds"]), str(slowest["path"])))
    return times


def _trace_all_reduces(server: VllmServer) -> TracedAllReduces | None:
    """Profile a few decoding steps under load; `None` where the profiler saw nothing."""
    shape = shape_of(Path(server.settings.model))
    work = Workload(TRACED_STREAMS, TRACED_TOKENS, TRACED_TOKENS, shape.vocab_size)
    # Unprofiled first: an engine's very first steps are slow in ways that have nothing to do with communication.
    run_load([server.endpoint], work.generate(), ClosedLoop(TRACED_STREAMS), timeout_s=RPC_TIMEOUT_S)
    server.ask_ranks("lab_trace_begin")
    run_load([server.endpoint], work.reseeded(1).generate(), ClosedLoop(TRACED_STREAMS), timeout_s=RPC_TIMEOUT_S)
    ranks = [rank for rank in server.ask_ranks("lab_trace_end") if rank["calls"] and rank["span_s"] > 0]
    if not ranks:
        return None
    most = max(ranks, key=lambda rank: float(rank["all_reduce_s"] / rank["span_s"]))
    all_reduce_s, span_s = float(most["all_reduce_s"]), float(most["span_s"])
    return TracedAllReduces(TRACED_STREAMS, all_reduce_s / span_s, all_reduce_s, span_s)


def _together(parts: Sequence[Gone]) -> Gone:
    return Gone(
        seconds=sum(part.seconds for part in parts),
        killed=sum(part.killed for part in parts),
        shared_memory_removed=tuple(name for part in parts for name in part.shared_memory_removed),
        processes_left=tuple(pid for part in parts for pid in part.processes_left),
        shared_memory_left=tuple(name for part in parts for name in part.shared_memory_left),
        port_free=all(part.port_free for part in parts),
    )
