"""A case whose question is whether a batch beats concurrency: the same requests as one, and as so many singles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.core.arrivals import ClosedLoop
from common.core.metrics import repeat_metrics
from common.core.plan import ParallelPlan
from common.core.recording import Recording
from common.core.workload import as_one
from common.experiment.bench import Bench
from common.experiment.load_spec import Lengths
from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration
from common.store.schema import Case

BATCH = "batch_"
OF_THE_BATCH = ("duration", "output_throughput", "total_input_tokens", "total_output_tokens")


@dataclass(frozen=True)
class BatchSpec:
    """`requests` prompts, sent as that many concurrent singles and as one request with that many prompts.

    Each repeat holds both, the order turning round from one to the next (ABBA), so that drift favours neither: a pair,
    whose ratio is one sample. The singles have the usual keys; those of the one request begin with `batch_`, and
    `batch_first` is 1 where it went first. Another way to send the same prompts is another prefix beside `batch_`
    (an engine without a server, for one, which has no request to time).
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
