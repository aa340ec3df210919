"""What an experiment wants measured, and in which order of engine starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from common.core.arrivals import ClosedLoop, Replay
from common.core.plan import ParallelPlan
from common.core.recording import Recording
from common.core.workload import Request, Workload, staggered
from common.store.schema import Case

# One turn until every slot is on its own beat, one until the first is idle, and three between: with fewer there is no
# steady window to be had, and staggered slots would only make the ramp longer.
FEWEST_STAGGERED_TURNS = 5
RUNG_TURNS = 2  # enough to see whether more load still pays


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
    kv_like: ParallelPlan | None = None  # has as many KV blocks as that plan, whatever its own memory would hold

    @property
    def engine(self) -> tuple[ParallelPlan, ParallelPlan | None]:
        """What the engine must be; cases that agree in it share one."""
        return self.plan, self.kv_like

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

    def rung(self, concurrency: int) -> Case:
        """A short case at a concurrency, on the way to the load where throughput saturates."""
        name = "ladder" if self.curve == "saturated" else f"ladder-{self.curve}"
        rung = replace(self, turns=min(self.turns, RUNG_TURNS)).at(concurrency)
        rung.id, rung.curve = f"{self.plan}/{name}/c{concurrency}", name
        return rung

    def at(self, load: int | Replay) -> Case:
        """The case, not yet measured, at a concurrency or as a replay."""
        slots, arrivals = (load, ClosedLoop(load)) if isinstance(load, int) else (0, load)
        workload = self.source.described(max(slots, 1) * self.turns)
        if self.turns >= FEWEST_STAGGERED_TURNS:
            workload = replace(workload, staggered=slots)
        return Case(self.id, self.plan, self.curve, workload, arrivals, flags=list(self.flags))

    def requests(self, case: Case, seed: int) -> list[Request]:
        """What is sent in one repeat of the case."""
        made = self.source.generate(case.workload.requests, seed)
        return staggered(made, case.workload.staggered, seed) if case.workload.staggered else made


Engine = TypeVar("Engine")


def order_of_starts(engines: Sequence[Engine], starts: int) -> list[tuple[int, Engine]]:
    """(start, engine) pairs: engines interleaved, every other round reversed, so that drift does not favour one."""
    rounds = [(start, engines if start % 2 == 0 else engines[::-1]) for start in range(starts)]
    return [(start, engine) for start, order in rounds for engine in order]
