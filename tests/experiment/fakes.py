"""A world behind the seam: engines that start, die or refuse as told, and load whose throughput is planted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.core.arrivals import Arrivals, ClosedLoop
from common.core.greedy import Answer
from common.core.plan import ParallelPlan
from common.core.record import RequestRecord
from common.core.workload import Request
from common.engines.engine import AllReduceTime, EngineFacts, TracedAllReduces
from common.engines.failures import EngineError, Failure
from common.engines.guarded import Gone
from common.engines.settings import EngineSettings
from common.load.client import Endpoint, LoadResult
from common.load.control import ControlError
from common.load.generation import Batch
from common.load.loop_lag import Lag
from common.machine.devices import Device, Machine

SLICES = tuple(Device(index, "cpu", "A CPU, 1 core", cores=(index,)) for index in range(2))
MACHINE = Machine("cpu", SLICES, host_shares_devices=True)
KILLED = Failure("worker_died", "Worker proc VllmWorker-1 died unexpectedly", "Look at dmesg")
REFUSED = Failure("out_of_memory", "the device ran out of memory", "Use more devices")


@dataclass
class Load:
    """One call of the load client."""

    plan: str
    arrivals: Arrivals
    requests: list[Request]
    engine: int  # how many engines had been started

    @property
    def concurrency(self) -> int:
        return concurrency_of(self.arrivals)

    @property
    def prompts(self) -> list[tuple[int, ...] | str]:
        return [request.prompt for request in self.requests]

    @property
    def is_warm_up(self) -> bool:
        return len(self.prompts) == self.concurrency


def concurrency_of(arrivals: Arrivals) -> int:
    """Slots of a closed loop; whatever comes by the clock counts as one."""
    return arrivals.concurrency if isinstance(arrivals, ClosedLoop) else 1


@dataclass
class World:
    """What happens, and what did happen."""

    rate: Callable[[str, int], float] = lambda plan, concurrency: 50.0 * concurrency
    preempts: Callable[[str, int], int] = lambda plan, concurrency: 0
    refuses: set[str] = field(default_factory=set)
    # number of a measured (not warm-up) load -> "die", "fail all", "fail some" or "interrupt"
    incidents: dict[int, str] = field(default_factory=dict)
    on_stop: Callable[[], None] = lambda: None
    gone: Gone = field(default_factory=lambda: Gone(0.1, 0, (), (), (), True))
    starts: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    settings: list[EngineSettings] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    ended_with_delay_us: list[float] = field(default_factory=list)
    traced_after_loads: list[int] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    calls: list[tuple[str, list[tuple[int, ...]], list[int]]] = field(default_factory=list)  # of LLM.generate
    offline_dies: bool = False
    engine: FakeEngine | None = None

    @property
    def measured(self) -> list[Load]:
        return [load for load in self.loads if not load.is_warm_up]

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> FakeEngine:
        if str(plan) in self.refuses:
            self.refused.append(str(plan))
            raise EngineError(REFUSED)
        assert self.engine is None, "one engine at a time"
        self.starts.append((str(plan), tuple(device.index for device in devices)))
        self.settings.append(settings)
        self.engine = FakeEngine(plan, self)
        return self.engine

    def run_load(
        self,
        endpoints: Sequence[Endpoint],
        requests: Sequence[Request],
        arrivals: Arrivals,
        *,
        seed: int = 0,
        timeout_s: float = 600.0,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        recount: Callable[[str], int] | None = None,
    ) -> LoadResult:
        """Stands in for `common.load.client.run_load`: answers at once, with planted times."""
        assert self.engine is not None
        plan, concurrency = endpoints[0].model, concurrency_of(arrivals)
        load = Load(plan, arrivals, list(requests), len(self.starts))
        self.loads.append(load)
        if progress is not None:
            progress(len(requests) // 2, 10 * len(requests))
        incident = None if load.is_warm_up else self.incidents.get(len(self.measured) - 1)
        if incident == "interrupt":
            raise KeyboardInterrupt
        if incident == "die":
            self.engine.dead = True
        if not load.is_warm_up:
            self.engine.preempted += self.preempts(plan, concurrency)
        failing = {"die": len(requests) // 2, "fail all": 0, "fail some": len(requests) - 1}.get(incident or "")
        duration_ns = round(sum(request.requested_tokens for request in requests) / self.rate(plan, concurrency) * 1e9)
        end_ns = time.perf_counter_ns()
        begin_ns = end_ns - duration_ns
        records = [
            self._record(request, begin_ns, end_ns, failing is not None and request.index >= failing)
            for request in requests
        ]
        return LoadResult(records, begin_ns, end_ns, time.time(), 0.01, Lag(0.002, 0.001, 0.0001))

    async def generate(self, endpoint: Endpoint, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int]) -> Batch:
        """Stands in for `common.load.generation.generate_offline`, at the rate of as many streams."""
        assert self.engine is not None and self.settings[-1].offline, "only an offline engine can be asked so"
        if self.offline_dies:
            self.engine.dead = True
            raise ControlError("the connection was closed")
        self.calls.append((endpoint.model, [tuple(prompt) for prompt in prompts], list(max_tokens)))
        answers = [Answer(tuple(range(length)), ()) for length in max_tokens]
        return Batch(answers, sum(max_tokens) / self.rate(f"{endpoint.model} offline", len(prompts)))

    def _record(self, request: Request, begin_ns: int, end_ns: int, fails: bool) -> RequestRecord:
        record = RequestRecord(request.index, request.request_class, request.requested_tokens, sent_ns=begin_ns)
        if fails:
            record.error_kind, record.error = "connection", "the connection was closed"
            return record
        tokens = request.requested_tokens
        step = (end_ns - begin_ns) // tokens
        record.chunk_ns = [begin_ns + step * (1 + index) for index in range(tokens)]
        record.prompt_tokens, record.output_tokens = len(request.prompt), tokens
        record.finish_reason = "length"
        record.ended_ns = record.chunk_ns[-1]
        return record


class FakeEngine:
    """Implements `Engine`."""

    def __init__(self, plan: ParallelPlan, world: World) -> None:
        self.plan, self.world = plan, world
        per_rank = [1] * plan.devices, [2] * plan.devices
        self.facts = EngineFacts("0.32.0", 1.5, {"weights": 0.5}, 65_536, *per_rank, {"block_size": 128})
        self.dead = False
        self.preempted = 0
        self.delay_us = 0.0

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        return [Endpoint("127.0.0.1", 1, str(self.plan))] * self.plan.replicas

    def pids(self) -> list[int]:
        return []

    def metrics(self) -> dict[str, float]:
        return {"vllm:num_preemptions_total": float(self.preempted)}

    def front_end_cpu_s(self) -> list[float]:
        return [0.0] * self.plan.replicas

    def slow_all_reduces(self, delay_us: float, tokens: Sequence[int]) -> list[AllReduceTime]:
        self.delay_us = delay_us
        return [AllReduceTime(count, 2048 * count, 1e-5 + delay_us / 1e6, "shm") for count in tokens]

    def trace_all_reduces(self) -> TracedAllReduces | None:
        self.world.traced_after_loads.append(len(self.world.loads))
        if self.dead:
            raise EngineError(KILLED)
        return TracedAllReduces(16, 0.1, 0.05, 0.5) if self.plan.tp > 1 else None

    def alive(self) -> bool:
        return not self.dead

    def death(self) -> Failure | None:
        return KILLED if self.dead else None

    def stop(self) -> Gone:
        self.world.on_stop()
        self.world.stops.append(str(self.plan))
        self.world.ended_with_delay_us.append(self.delay_us)
        self.world.engine = None
        return self.world.gone


def vllm_launcher(world: World) -> Callable[..., World]:
    """Stands in for the class `VllmLauncher`."""

    def make(*_: Any) -> World:  # noqa: ANN401
        return world

    return make
