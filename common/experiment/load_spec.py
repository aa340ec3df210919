"""A case whose question is load: closed loops, open loops, the load that saturates a plan, a recording replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from common.analysis.wording import streams
from common.core.arrivals import ClosedLoop, OpenLoop, Replay
from common.core.mix import MixedWorkload
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.core.recording import Recording
from common.core.workload import Request, Workload, staggered
from common.engines.models import Model
from common.experiment.bench import Bench
from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration
from common.store.schema import Case

# One turn until every slot is on its own beat, one until the first is idle, and three between: with fewer there is no
# steady window to be had, and staggered slots would only make the ramp longer.
FEWEST_STAGGERED_TURNS = 5
RUNG_TURNS = 2  # enough to see whether more load still pays
CLOCKED_WARM_UP_STREAMS = 16  # what comes by the clock does not know its batch size beforehand
BETWEEN_REPEATS_S = 1.0  # asking the engine's counters, warming up, and now and then measuring again: 0.3 to 2.1 seen
CLOCKED_IN_FLIGHT = 16  # an estimate, where requests come faster than they are worked off


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
class LoadSpec:
    """A case to be: `turns` requests for each of `load` slots, repeated inside every engine start.

    What comes by the clock (`OpenLoop`, `Replay`) is one slot with `turns` requests. With a `recording` the requests
    come from it, and `lengths` are its means. `slo_ms` limits ttft, tpot or e2el for goodput. `total` is the number of
    requests where that is asked for and is no multiple of slots; `where` names what is measured in place of the plan.
    `model` is measured in place of the run's.
    """

    plan: ParallelPlan
    curve: str
    load: int | Saturate | OpenLoop | Replay
    lengths: Lengths
    turns: int
    repeats: int
    flags: tuple[str, ...] = ()
    recording: Recording | None = None
    kv_like: ParallelPlan | None = None  # has as many KV blocks as that plan, whatever its own memory would hold
    changed: tuple[tuple[str, Any], ...] = ()  # engine settings that differ from the run's
    slo_ms: Mapping[str, float] = field(default_factory=dict, hash=False)
    total: int | None = None
    where: str = ""
    model: Model | None = None

    @property
    def configuration(self) -> Configuration:
        """The engine it is measured on."""
        return Configuration(self.plan, self.kv_like, self.changed, self.model)

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        named = f"{self._measured}/{self.curve}"
        match self.load:
            case Saturate():
                return named
            case Replay(time_scale):
                return f"{named}/x{time_scale:g}"
            case OpenLoop(rate):
                ramp = f"-{self.load.final_rate_per_s:g}" if self.load.final_rate_per_s else ""
                return f"{named}/r{rate:g}{ramp}"
            case concurrency:
                return f"{named}/c{concurrency}"

    @property
    def _measured(self) -> str:
        """What ids begin with."""
        return self.where or (f"{self.plan}" if self.model is None else f"{self.model.name}/{self.plan}")

    @property
    def streams(self) -> list[int]:
        """The concurrencies that it may run at; what comes by the clock has none of its own."""
        if isinstance(self.load, int):
            return [self.load]
        return self.load.rungs() if isinstance(self.load, Saturate) else []

    @property
    def context_tokens(self) -> int:
        """Tokens of a request, prompt and answer; of a recorded one the mean: longer ones were left out."""
        return self.lengths.input_tokens + self.lengths.output_tokens

    @property
    def source(self) -> Lengths | Recording:
        """Where its requests come from: made up of fixed lengths, or recorded."""
        return self.lengths if self.recording is None else self.recording

    @property
    def clocked_s(self) -> float:
        """Seconds from the first request to the last where they come by the clock, else 0."""
        if isinstance(self.load, OpenLoop):
            return float(self.load.schedule_s(self.turns, 0)[-1])
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
        rung.id, rung.curve = f"{self._measured}/{name}/c{concurrency}", name
        return rung

    def at(self, load: int | OpenLoop | Replay) -> Case:
        """The case, not yet measured, at a concurrency or by the clock."""
        slots, arrivals = (load, ClosedLoop(load)) if isinstance(load, int) else (0, load)
        workload = self.source.described(self.total or max(slots, 1) * self.turns)
        if self.turns >= FEWEST_STAGGERED_TURNS:
            workload = replace(workload, staggered=slots)
        model = None if self.model is None else self.model.name
        return Case(self.id, self.plan, self.curve, workload, arrivals, flags=list(self.flags), model=model)

    def requests(self, case: Case, seed: int) -> list[Request]:
        """What is sent in one repeat of the case."""
        assert not isinstance(case.workload, MixedWorkload), "such a case is another kind's"
        made = self.source.generate(case.workload.requests, seed)
        slots = 0 if isinstance(case.workload, MixedWorkload) else case.workload.staggered
        return staggered(made, slots, seed) if slots else made

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Add this start's repeats to `case`; a saturating case finds its concurrency first, on `ladder`.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        if isinstance(self.load, Saturate) and not case.repeats:
            found = self.at(self._climb(bench, self.load, ladder))
            case.workload, case.arrivals = found.workload, found.arrivals
        self._warm_up(bench, case)
        for repeat in range(self.repeats):
            self._repeat(bench, case, repeat)
        bench.judge(case)

    def _climb(self, bench: Bench, saturate: Saturate, ladder: list[Case]) -> int:
        """The last rung that still paid: the next gained less than `min_gain`, or caused preemptions."""
        best, best_rate = 0, 0.0
        for concurrency in saturate.rungs():
            rung = self.rung(concurrency)
            self._warm_up(bench, rung)
            measured = self._repeat(bench, rung, 0)
            ladder.append(rung)
            rate = measured["output_throughput"]
            if best and (rate < best_rate * (1 + saturate.min_gain) or measured.get("preemptions", 0) > 0):
                break
            best, best_rate = concurrency, rate
        return best

    def _warm_up(self, bench: Bench, case: Case) -> None:
        streams = min(CLOCKED_WARM_UP_STREAMS, case.workload.requests)
        if isinstance(case.arrivals, ClosedLoop):
            streams = case.arrivals.concurrency
        bench.warm_up(case, streams, self.source.warm_up)

    def _repeat(self, bench: Bench, case: Case, repeat: int) -> dict[str, float]:
        return bench.repeat(case, self.requests(case, bench.seed_of(repeat)), repeat, self.slo_ms)

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's repeats will take, warm-up and search included: an estimate."""
        roofline = roofline if self.model is None else replace(roofline, shape=self.model.shape)
        match self.load:
            case Saturate():
                return self._saturating_s(self.load, roofline)
            case int():
                repeats_s = self._turn_s(roofline, self.load) * self.turns * (self.repeats + 0.3)
                return repeats_s + BETWEEN_REPEATS_S * self.repeats
            case _:
                return self._by_the_clock_s(roofline) * (self.repeats + 0.3)

    def _turn_s(self, roofline: Roofline, concurrency: int) -> float:
        return roofline.turn_s(self.plan, concurrency, self.lengths.input_tokens, self.lengths.output_tokens)

    def _saturating_s(self, saturate: Saturate, roofline: Roofline) -> float:
        """The climb until a rung is not predicted to pay, and the repeats there."""
        climb_s, best, best_rate = 0.0, saturate.first, 0.0
        for rung in saturate.rungs():
            rung_s = min(self.turns, RUNG_TURNS) * self._turn_s(roofline, rung)
            climb_s += 1.3 * rung_s + BETWEEN_REPEATS_S
            if rung / rung_s < best_rate * (1 + saturate.min_gain):
                break
            best, best_rate = rung, rung / rung_s
        return climb_s + self.repeats * (self.turns * self._turn_s(roofline, best) + BETWEEN_REPEATS_S)

    def _by_the_clock_s(self, roofline: Roofline) -> float:
        """Until the last request comes and is answered, or, where they come too fast, until all are worked off."""
        in_flight = min(self.turns, CLOCKED_IN_FLIGHT)
        worked_off_s = self._turn_s(roofline, in_flight) * self.turns / in_flight
        return max(self.clocked_s + self._turn_s(roofline, 1), worked_off_s)

    def in_words(self) -> str:
        """Load and lengths, for a person."""
        mean = "" if self.recording is None else " on average"
        return f"{self._load_in_words()}, {self.lengths.input_tokens} in / {self.lengths.output_tokens} out{mean}"

    def _load_in_words(self) -> str:
        match self.load:
            case Saturate():
                return f"{self.streams} streams, until it saturates"
            case int():
                return streams(self.load)
            case _:
                return f"{plural(self.turns, 'request')} in {self.clocked_s:.3g} s"
