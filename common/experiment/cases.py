"""What an experiment wants measured, and in which order of engine starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.core.arrivals import ClosedLoop, Replay
from common.core.plan import ParallelPlan
from common.core.recording import Recording
from common.core.workload import Request, Workload
from common.store.schema import Case


@dataclass(frozen=True)
class Lengths:
    """Tokens of every request, and the vocabulary its prompt is drawn from."""

    input_tokens: int
    output_tokens: int
    vocab_size: int

    def described(self, requests: int) -> Workload:
        """What a result says of so many such requests."""
        return Workload(requests, self.input_tokens, self.output_tokens, self.vocab_size)

    def generate(self, requests: int, seed: int) -> list[Request]:
        """So many requests; another seed gives other prompts."""
        return self.described(requests).reseeded(seed).generate()

    def warm_up(self, requests: int, output_tokens: int, seed: int) -> list[Request]:
        """Requests of the same prompt length and at most so many output tokens."""
        return replace(self, output_tokens=min(output_tokens, self.output_tokens)).generate(requests, seed)


@dataclass(frozen=True)
class Saturate:
    """Find the concurrency where more load stops paying: double it until throughput gains less than `min_gain`."""

    first: int
    limit: int
    min_gain: float = 0.03

    def rungs(self) -> list[int]:
        """Concurrencies to try, each twice the one before, the last at most `limit`."""
        rungs = [min(self.first, self.limit)]
        while rungs[-1] * 2 <= self.limit:
            rungs.append(rungs[-1] * 2)
        return rungs


@dataclass(frozen=True)
class CaseSpec:
    """A case to be: `turns` requests for each of `load` slots, repeated inside every engine start.

    A replay is one slot whose turns come when the recording says. With a `recording` the requests come from it, and
    `lengths` are its means.
    """

    plan: ParallelPlan
    curve: str
    load: int | Saturate | Replay
    lengths: Lengths
    turns: int
    repeats: int
    flags: tuple[str, ...] = ()
    recording: Recording | None = None

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        match self.load:
            case Saturate():
                return f"{self.plan}/{self.curve}"
            case Replay(time_scale):
                return f"{self.plan}/{self.curve}/x{time_scale:g}"
            case streams:
                return f"{self.plan}/{self.curve}/c{streams}"

    @property
    def streams(self) -> list[int]:
        """The concurrencies that it may run at; a replay has none of its own."""
        if isinstance(self.load, Replay):
            return []
        return [self.load] if isinstance(self.load, int) else self.load.rungs()

    @property
    def source(self) -> Lengths | Recording:
        """Where its requests come from: made up of fixed lengths, or recorded."""
        return self.lengths if self.recording is None else self.recording

    @property
    def replayed_s(self) -> float:
        """Seconds from a replay's first request to its last; 0 for what is no replay."""
        if self.recording is None or not isinstance(self.load, Replay):
            return 0.0
        return self.recording.span_s * self.load.time_scale

    def unmeasured(self) -> Case:
        """The case before anything is known of it; a saturating one stands at the first load it will try."""
        return self.at(self.load.first if isinstance(self.load, Saturate) else self.load)

    def at(self, load: int | Replay) -> Case:
        """The case, not yet measured, at a concurrency or as a replay."""
        slots, arrivals = (load, ClosedLoop(load)) if isinstance(load, int) else (1, load)
        workload = self.source.described(slots * self.turns)
        return Case(self.id, self.plan, self.curve, workload, arrivals, flags=list(self.flags))


def order_of_starts(plans: Sequence[ParallelPlan], starts: int) -> list[tuple[int, ParallelPlan]]:
    """(start, plan) pairs: plans interleaved, every other round reversed, so that drift does not favour a plan."""
    rounds = [(start, plans if start % 2 == 0 else plans[::-1]) for start in range(starts)]
    return [(start, plan) for start, order in rounds for plan in order]
