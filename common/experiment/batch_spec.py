"""Cases whose question is whether a batch beats concurrency: the same prompts as singles, as one request, offline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.analysis.checks import case_checks
from common.core.arrivals import ClosedLoop
from common.core.metrics import repeat_metrics
from common.core.plan import ParallelPlan
from common.core.recording import Recording
from common.core.workload import Request, as_one
from common.experiment.answers import no_answer
from common.experiment.bench import FIRST_WARM_UP_TOKENS, WARM_UP_SEED, Bench
from common.experiment.events import Measuring
from common.experiment.load_spec import Lengths
from common.experiment.repeat import ask, servers_counts
from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration
from common.load.control import ControlError
from common.load.generation import Batch, generate_offline
from common.store.schema import Case

BATCH, OFFLINE_BATCH = "batch_", "batch-offline"
OF_THE_BATCH = ("duration", "output_throughput", "total_input_tokens", "total_output_tokens")


@dataclass(frozen=True)
class BatchSpec:
    """`requests` prompts, sent as that many concurrent singles and as one request with that many prompts.

    Each repeat holds both, the order turning round from one to the next (ABBA), so that drift favours neither: a pair,
    whose ratio is one sample. The singles have the usual keys; those of the one request begin with `batch_`, and
    `batch_first` is 1 where it went first.
    """

    plan: ParallelPlan
    requests: int
    lengths: Lengths
    repeats: int
    flags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        return f"{self.plan}/batch/n{self.requests}"

    @property
    def configuration(self) -> Configuration:
        """The engine it is measured on: the plan's, as it is for load."""
        return Configuration(self.plan)

    @property
    def streams(self) -> list[int]:
        """All requests are decoded together, either way."""
        return [self.requests]

    @property
    def context_tokens(self) -> int:
        """Tokens of one prompt and its answer."""
        return self.lengths.input_tokens + self.lengths.output_tokens

    @property
    def recording(self) -> Recording | None:
        """None: prompts are made."""
        return None

    def unmeasured(self) -> Case:
        """The case before anything is known of it."""
        work, arrivals = self.lengths.described(self.requests), ClosedLoop(self.requests)
        return Case(self.id, self.plan, "batch", work, arrivals, flags=list(self.flags))

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Add this start's pairs to `case`.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        bench.warm_up(case, self.requests, self.lengths.warm_up)
        for repeat in range(self.repeats):
            requests = self.lengths.generate(self.requests, bench.seed_of(repeat))
            batch_first = repeat % 2 == 1
            batch = self._as_batch(bench, case, repeat) if batch_first else {}
            measured = bench.repeat(case, requests, repeat)
            batch = batch or self._as_batch(bench, case, repeat)
            measured |= {"batch_first": float(batch_first), **batch}
        bench.judge(case)

    def _as_batch(self, bench: Bench, case: Case, repeat: int) -> Mapping[str, float]:
        """The repeat's prompts as one request; its numbers."""
        seed = bench.seed_of(repeat)
        one = as_one(self.lengths.generate(self.requests, seed))
        loaded = bench.load(case, [one], ClosedLoop(1), seed, f"repeat {repeat + 1}, as one request")
        bench.keep(case, loaded, repeat, "-batch")
        numbers = repeat_metrics(loaded.records, loaded.duration_s)
        return {BATCH + name: numbers[name] for name in OF_THE_BATCH if name in numbers}

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's pairs will take, warm-up included: an estimate."""
        lengths = self.lengths
        turn_s = roofline.turn_s(self.plan, self.requests, lengths.input_tokens, lengths.output_tokens)
        return turn_s * (2 * self.repeats + 0.3)

    def in_words(self) -> str:
        """Load and lengths, for a person."""
        tokens = f"{self.lengths.input_tokens} in / {self.lengths.output_tokens} out"
        return f"{self.requests} prompts as one request and as singles, {tokens}"


@dataclass(frozen=True)
class OfflineBatchSpec(BatchSpec):
    """The same prompts, given to `LLM.generate(...)` in one call.

    The offline engine is another start than the server's, so calls and singles are no pairs: their means are compared.
    A call has no request to time, and no client: its seconds are those of the call alone.
    """

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        return f"{self.plan}/{OFFLINE_BATCH}/n{self.requests}"

    @property
    def configuration(self) -> Configuration:
        """The engine it is measured on: an offline one, set up as the plan's server is."""
        return Configuration(self.plan, changed=(("offline", True),))

    def unmeasured(self) -> Case:
        """The case before anything is known of it."""
        work, arrivals = self.lengths.described(self.requests), ClosedLoop(self.requests)
        return Case(self.id, self.plan, OFFLINE_BATCH, work, arrivals, flags=list(self.flags))

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Add this start's calls to `case`.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        if bench.warmed_to < self.requests:
            warm_up = self.lengths.warm_up(self.requests, FIRST_WARM_UP_TOKENS, bench.seed_of(0) + WARM_UP_SEED)
            self._call(bench, warm_up, "warm-up")
            bench.warmed_to = self.requests
        for repeat in range(self.repeats):
            requests = self.lengths.generate(self.requests, bench.seed_of(repeat))
            before, began_unix_s, began_ns = ask(bench.engine), time.time(), time.perf_counter_ns()
            batch = self._call(bench, requests, f"repeat {repeat + 1}")
            case.monitor = bench.monitor.summary(began_ns, time.perf_counter_ns())
            measured = _call_numbers(requests, batch) | servers_counts(before, ask(bench.engine))
            measured |= {"start": bench.start, "repeat": repeat, "engine_age_s": before.at_s - bench.ready_at}
            bench.enter(case, measured | {"benchmark_start_time_unix": began_unix_s})
        case.checks = case_checks(case)

    def _call(self, bench: Bench, requests: Sequence[Request], label: str) -> Batch:
        """One call of `LLM.generate(...)`.

        Raises:
            EngineError: the engine died, or did not answer.
        """
        prompts = [[int(token) for token in request.prompt] for request in requests]
        lengths = [request.output_tokens for request in requests]
        bench.watch(Measuring(self.id, label, 0, len(requests), 0.0))
        try:
            return asyncio.run(generate_offline(bench.engine.endpoints[0], prompts, lengths))
        except ControlError as error:
            raise no_answer(error, bench.engine) from error

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's calls will take, warm-up included: an estimate."""
        lengths = self.lengths
        turn_s = roofline.turn_s(self.plan, self.requests, lengths.input_tokens, lengths.output_tokens)
        return turn_s * (self.repeats + 1)

    def in_words(self) -> str:
        """Load and lengths, for a person."""
        tokens = f"{self.lengths.input_tokens} in / {self.lengths.output_tokens} out"
        return f"{self.requests} prompts as one offline batch, {tokens}"


def _call_numbers(requests: Sequence[Request], batch: Batch) -> dict[str, float]:
    """The numbers of one call, with the keys of a load's."""
    written = [len(answer.token_ids) for answer in batch.answers]
    read = sum(len(request.prompt) for request in requests)
    asked = [request.output_tokens for request in requests]
    return {
        "duration": batch.seconds,
        "num_prompts": len(requests),
        "completed": len(written),
        "failed": len(requests) - len(written),
        "total_input_tokens": read,
        "total_output_tokens": sum(written),
        "request_throughput": len(written) / batch.seconds,
        "output_throughput": sum(written) / batch.seconds,
        "total_token_throughput": (read + sum(written)) / batch.seconds,
        "token_count_mismatches": sum(found != wanted for found, wanted in zip(written, asked, strict=True)),
    }
