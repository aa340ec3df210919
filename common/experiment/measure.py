"""One case under one running engine: warm up, repeat, keep everything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.analysis.checks import case_checks
from common.core.arrivals import Arrivals, ClosedLoop
from common.core.verdict import ClientCeiling
from common.core.workload import Request
from common.engines.engine import Engine
from common.engines.failures import EngineError, Failure
from common.experiment.cases import CaseSpec, Saturate
from common.experiment.events import Measuring, RepeatDone, Watcher
from common.experiment.repeat import ask, client_verdict, repeat_numbers, watch_tokens
from common.load.client import LoadResult, run_load
from common.machine.monitor import Monitor
from common.store.requests import save_requests
from common.store.schema import Case

WARM_UP_TOKENS = 8
FIRST_WARM_UP_TOKENS = 24  # an engine's first steps are slow in ways that later ones are not
REPLAY_WARM_UP_STREAMS = 16  # a replay does not know its batch size beforehand
REQUEST_TIMEOUT_S = 600.0


@dataclass
class Measurer:
    """Measures cases on one engine start; `requests_folder` receives the per-request files."""

    engine: Engine
    start: int
    seed: int
    requests_folder: Path
    monitor: Monitor
    watch: Watcher
    recount: Callable[[str], int] | None = None
    ceiling: ClientCeiling | None = None
    ready_at: float = 0.0
    warmed_to: int = 0  # the largest batch the engine has seen

    def __post_init__(self) -> None:
        self.ready_at = time.monotonic()

    def measure(self, spec: CaseSpec, case: Case, ladder: list[Case]) -> None:
        """Add this start's repeats to `case`; a saturating case finds its concurrency first, on `ladder`.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        if isinstance(spec.load, Saturate) and not case.repeats:
            found = spec.at(self._climb(spec, spec.load, ladder))
            case.workload, case.arrivals = found.workload, found.arrivals
        self._warm_up(spec, case)
        for repeat in range(spec.repeats):
            self._repeat(spec, case, repeat)
        case.checks = case_checks(case)
        case.client = client_verdict(case, self.ceiling)

    def _climb(self, spec: CaseSpec, saturate: Saturate, ladder: list[Case]) -> int:
        """The last rung that still paid: the next gained less than `min_gain`, or caused preemptions."""
        best, best_rate = 0, 0.0
        for concurrency in saturate.rungs():
            rung = spec.rung(concurrency)
            self._warm_up(spec, rung)
            measured = self._repeat(spec, rung, 0)
            ladder.append(rung)
            rate = measured["output_throughput"]
            if best and (rate < best_rate * (1 + saturate.min_gain) or measured.get("preemptions", 0) > 0):
                break
            best, best_rate = concurrency, rate
        return best

    def _warm_up(self, spec: CaseSpec, case: Case) -> None:
        """Bring the engine to the case's batch size, unless it has been there, with prompts that no repeat uses."""
        streams = min(REPLAY_WARM_UP_STREAMS, case.workload.requests)
        if isinstance(case.arrivals, ClosedLoop):
            streams = case.arrivals.concurrency
        if streams <= self.warmed_to:
            return
        tokens = WARM_UP_TOKENS if self.warmed_to else FIRST_WARM_UP_TOKENS
        seed = self._seed(0) + 999_983
        self._load(case, spec.source.warm_up(streams, tokens, seed), ClosedLoop(streams), seed, "warm-up")
        self.warmed_to = streams

    def _repeat(self, spec: CaseSpec, case: Case, repeat: int) -> dict[str, float]:
        seed = self._seed(repeat)
        before = ask(self.engine)
        with watch_tokens(self.engine) as tokens:
            loaded = self._load(case, spec.requests(case, seed), case.arrivals, seed, f"repeat {repeat + 1}")
        measured = repeat_numbers(case, loaded, before, ask(self.engine), tokens)
        measured |= {"start": self.start, "repeat": repeat, "engine_age_s": before.at_s - self.ready_at}
        case.repeats.append(measured)
        case.monitor = self.monitor.summary(loaded.begin_ns, loaded.end_ns)
        flags = [*loaded.flags, *(["failed_requests"] if measured["failed"] else [])]
        case.flags += [flag for flag in flags if flag not in case.flags]
        name = f"{case.id.replace('/', '-')}-start{self.start}-repeat{repeat}.parquet"
        save_requests(loaded.records, self.requests_folder / name)
        self.watch(RepeatDone(case.id, repeat, measured.get("output_throughput")))
        return measured

    def _load(self, case: Case, requests: list[Request], arrivals: Arrivals, seed: int, label: str) -> LoadResult:
        began = time.perf_counter()

        def progress(done: int, chunks: int) -> None:
            seconds = time.perf_counter() - began
            self.watch(Measuring(case.id, label, done, len(requests), chunks / seconds if seconds else 0.0))

        loaded = run_load(
            self.engine.endpoints,
            requests,
            arrivals,
            seed=seed,
            timeout_s=REQUEST_TIMEOUT_S,
            progress=progress,
            should_stop=lambda: not self.engine.alive(),
            recount=self.recount,
        )
        self._raise_if_useless(loaded)
        return loaded

    def _raise_if_useless(self, loaded: LoadResult) -> None:
        failed = [record for record in loaded.records if not record.ok]
        if not failed:
            return
        if death := self.engine.death():
            raise EngineError(death)
        if len(failed) == len(loaded.records):
            message = f"every request failed, the first with {failed[0].error_kind}: {failed[0].error}"
            raise EngineError(Failure("all_requests_failed", message, "The engine's log may say more"))

    def _seed(self, repeat: int) -> int:
        """Prompts depend on start and repeat, not on plan or case: every plan does the same work."""
        return self.seed + 1_000 * self.start + repeat
