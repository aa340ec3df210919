"""A world in which long requests hold up short ones, by planted amounts that depend on the engine's settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from common.core.arrivals import Arrivals, ClosedLoop, Replay
from common.core.plan import ParallelPlan
from common.core.record import RequestRecord
from common.core.workload import Request
from common.engines.settings import EngineSettings
from common.load.client import Endpoint, LoadResult, schedule_s
from common.load.loop_lag import Lag
from common.machine.devices import Device
from tests.experiment.fakes import FakeEngine, Load, World

TTFT_S, GAP_S, LONG_S = 0.05, 0.02, 4.0


@dataclass
class MixedWorld(World):
    """A short request's first token takes 50 ms, a long one's 4 s; one that comes meanwhile waits until that is over.

    A running answer stands still for as long as a step lasts: for all of the 4 s where no prompt is cut up, else for
    the budget's share of them. `ignores` are settings that the engine takes and does not follow.
    """

    ignores: dict[str, object] = field(default_factory=dict)
    fails: Callable[[str], bool] = lambda request_class: False
    late_s: dict[int, float] = field(default_factory=dict)  # number of a part -> how late the client sends in it
    parts: list[tuple[str, ...]] = field(default_factory=list)

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> FakeEngine:
        engine = super().start(plan, devices, settings)
        engine.facts.settings.update(
            enable_chunked_prefill=settings.chunked_prefill,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_model_len=settings.max_model_len,
            long_prefill_token_threshold=settings.long_prefill_token_threshold,
            scheduling_policy=settings.scheduling_policy,
        )
        engine.facts.settings.update(self.ignores)
        return engine

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
        if isinstance(arrivals, ClosedLoop):
            return super().run_load(endpoints, requests, arrivals, seed=seed)
        assert arrivals == Replay(1.0)
        self.loads.append(Load(endpoints[0].model, arrivals, list(requests), len(self.starts)))
        self.parts.append(tuple(dict.fromkeys(request.request_class for request in requests)))
        if self.incidents.get(len(self.parts) - 1) == "interrupt":
            raise KeyboardInterrupt
        begin_ns = time.perf_counter_ns()
        came_ns = [begin_ns + int(at_s * 1e9) for at_s in schedule_s(arrivals, requests, seed)]
        holds = [at for at, request in zip(came_ns, requests, strict=True) if request.request_class == "long"]
        records = [self._mixed(request, at, holds) for request, at in zip(requests, came_ns, strict=True)]
        for record in records:
            record.sent_ns = (record.intended_ns or 0) + round(self.late_s.get(len(self.parts) - 1, 0.0) * 1e9)
        end_ns = max(record.ended_ns or 0 for record in records)
        return LoadResult(records, begin_ns, end_ns, time.time(), 0.01, Lag(0.002, 0.001, 0.0001))

    def _mixed(self, request: Request, came_ns: int, holds: Sequence[int]) -> RequestRecord:
        is_long = request.request_class == "long"
        made = RequestRecord(request.index, request.request_class, request.output_tokens, came_ns, came_ns)
        if self.fails(request.request_class):
            made.error_kind, made.ended_ns = "timeout", came_ns + 1
            return made
        long_ns = round(LONG_S * 1e9)
        first_ns = came_ns + (long_ns if is_long else round(TTFT_S * 1e9))
        for hold in holds:
            if not is_long and hold <= came_ns < hold + long_ns:
                first_ns = hold + long_ns + round(TTFT_S * 1e9)
        made.chunk_ns = [first_ns]
        for _ in range(request.output_tokens - 1):
            before = made.chunk_ns[-1]
            stands = any(before <= hold < before + GAP_S * 1e9 for hold in holds)
            made.chunk_ns.append(before + round((self._step_s() if stands else GAP_S) * 1e9))
        made.prompt_tokens, made.output_tokens = len(request.prompt), request.output_tokens
        made.finish_reason, made.ended_ns = "length", made.chunk_ns[-1]
        return made

    def _step_s(self) -> float:
        used = self.settings[-1]
        return LONG_S * min(1.0, used.max_num_batched_tokens / 2048) if used.chunked_prefill else LONG_S
