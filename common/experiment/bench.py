"""One running engine as a place to measure: warm it up, send load, keep everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.analysis.checks import case_checks
from common.core.arrivals import Arrivals, ClosedLoop
from common.core.verdict import ClientCeiling
from common.core.workload import Request
from common.engines.engine import Engine
from common.engines.failures import EngineError
from common.experiment.answers import why_useless
from common.experiment.events import Measuring, RepeatDone, Said, Watcher
from common.experiment.repeat import ask, client_verdict, repeat_numbers, spoilt, watch_tokens
from common.load.client import LoadResult, run_load
from common.machine.monitor import Monitor
from common.store.requests import requests_file, save_requests
from common.store.schema import Case

WARM_UP_TOKENS = 8
FIRST_WARM_UP_TOKENS = 24  # an engine's first steps are slow in ways that later ones are not
WARM_UP_SEED = 999_983  # added to a repeat's, for prompts that no repeat uses
REQUEST_TIMEOUT_S = 600.0
AGAIN, MEASURED_AGAIN = 2, "measured_again"
EXTERNAL = "external"  # the flag of cases on a server that somebody else runs


@dataclass
class Bench:
    """One engine start; `requests_folder` receives the per-request files."""

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

    def seed_of(self, repeat: int) -> int:
        """Prompts depend on start and repeat, not on plan or case: every plan does the same work."""
        return self.seed + 1_000 * self.start + repeat

    def warm_up(self, case: Case, streams: int, make: Callable[[int, int, int], list[Request]]) -> None:
        """Bring the engine to a batch size, unless it has been there, with prompts that no repeat uses.

        `make` gives requests for a number of them, their output tokens at the most, and a seed.
        """
        if streams <= self.warmed_to:
            return
        tokens = WARM_UP_TOKENS if self.warmed_to else FIRST_WARM_UP_TOKENS
        seed = self.seed_of(0) + WARM_UP_SEED
        self.load(case, make(streams, tokens, seed), ClosedLoop(streams), seed, "warm-up")
        self.warmed_to = streams

    def repeat(
        self, case: Case, requests: list[Request], repeat: int, slo_ms: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Send one repeat as the case says, add its numbers to the case, and keep its request records.

        One in which the client was held up so long that its times are its own is measured again, twice at the most.
        Only the client's halts decide that, never what the engine did.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        ((loaded, measured),) = self.sent(case, [requests], repeat, slo_ms)
        self.keep(case, loaded, repeat)
        self.enter(case, measured)
        return measured

    def sent(
        self, case: Case, parts: Sequence[list[Request]], repeat: int, slo_ms: Mapping[str, float] | None = None
    ) -> list[tuple[LoadResult, dict[str, float]]]:
        """Send the parts of one repeat, one after the other: what came back and its numbers, none of it kept yet.

        All are sent again where the client was held up in one of them; not to somebody else's server, which may have
        kept the prompts in a cache.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        found = [self._once(case, requests, repeat, slo_ms) for requests in parts]
        for attempt in range(2, 2 + (0 if EXTERNAL in case.flags else AGAIN)):
            if not any(spoilt(case, measured) for _, measured in found):
                break
            words = f"repeat {repeat + 1} again, attempt {attempt} of {1 + AGAIN}; close other programs"
            self.watch(Said(f"{case.id}: something held the client up for long: {words}"))
            case.flags += [] if MEASURED_AGAIN in case.flags else [MEASURED_AGAIN]
            found = [self._once(case, requests, repeat, slo_ms) for requests in parts]
        return found

    def enter(self, case: Case, measured: dict[str, float]) -> None:
        """Add a repeat's numbers to its case."""
        case.repeats.append(measured)
        self.watch(RepeatDone(case.id, round(measured["repeat"]), measured.get("output_throughput")))

    def _once(
        self, case: Case, requests: list[Request], repeat: int, slo_ms: Mapping[str, float] | None
    ) -> tuple[LoadResult, dict[str, float]]:
        before = ask(self.engine)
        with watch_tokens(self.engine, before) as tokens:
            loaded = self._send(case, requests, case.arrivals, self.seed_of(repeat), f"repeat {repeat + 1}")
        if failure := why_useless(loaded.records, self.engine):
            self.keep(case, loaded, repeat, "-partial")
            raise EngineError(failure)
        measured = repeat_numbers(case, loaded, before, ask(self.engine), tokens, slo_ms)
        return loaded, measured | {
            "start": self.start,
            "repeat": repeat,
            "engine_age_s": before.at_s - self.ready_at,
        }

    def keep(self, case: Case, loaded: LoadResult, repeat: int, part: str = "") -> None:
        """Save a load's request records, and tell the case what the machine did meanwhile."""
        case.monitor = self.monitor.summary(loaded.begin_ns, loaded.end_ns)
        failed = any(not record.ok for record in loaded.records)
        flags = [*loaded.flags, *(["failed_requests"] if failed else [])]
        case.flags += [flag for flag in flags if flag not in case.flags]
        save_requests(loaded.records, requests_file(self.requests_folder, case.id, self.start, repeat, part))

    def judge(self, case: Case) -> None:
        """Check the case's numbers against each other, and say whether its client can be believed."""
        case.checks = case_checks(case)
        case.client = client_verdict(case, self.ceiling)

    def load(self, case: Case, requests: list[Request], arrivals: Arrivals, seed: int, label: str) -> LoadResult:
        """Send requests to the engine, with progress.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        loaded = self._send(case, requests, arrivals, seed, label)
        if failure := why_useless(loaded.records, self.engine):
            raise EngineError(failure)
        return loaded

    def _send(self, case: Case, requests: list[Request], arrivals: Arrivals, seed: int, label: str) -> LoadResult:
        began = time.perf_counter()

        def progress(done: int, chunks: int) -> None:
            seconds = time.perf_counter() - began
            self.watch(Measuring(case.id, label, done, len(requests), chunks / seconds if seconds else 0.0))

        return run_load(
            self.engine.endpoints,
            requests,
            arrivals,
            seed=seed,
            timeout_s=REQUEST_TIMEOUT_S,
            progress=progress,
            should_stop=lambda: not self.engine.alive(),
            recount=self.recount,
        )
