"""What an experiment wants measured, and in which order of engine starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.workload import Workload
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
    """A case to be: `turns` requests for each of `load` slots, repeated inside every engine start."""

    plan: ParallelPlan
    curve: str
    load: int | Saturate
    lengths: Lengths
    turns: int
    repeats: int
    flags: tuple[str, ...] = ()
    kv_like: ParallelPlan | None = None  # has as many KV blocks as that plan, whatever its own memory would hold

    @property
    def engine(self) -> tuple[ParallelPlan, ParallelPlan | None]:
        """What the engine must be; cases that agree in it share one."""
        return self.plan, self.kv_like

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""
        return f"{self.plan}/{self.curve}" + (f"/c{self.load}" if isinstance(self.load, int) else "")

    def unmeasured(self) -> Case:
        """The case before anything is known of it; a saturating one stands at the first load it will try."""
        return self.at(self.load if isinstance(self.load, int) else self.load.first)

    def rung(self, concurrency: int) -> Case:
        """A short case at a concurrency, on the way to the load where throughput saturates."""
        name = "ladder" if self.curve == "saturated" else f"ladder-{self.curve}"
        rung = replace(self, turns=min(self.turns, RUNG_TURNS)).at(concurrency)
        rung.id, rung.curve = f"{self.plan}/{name}/c{concurrency}", name
        return rung

    def at(self, concurrency: int) -> Case:
        """The case, not yet measured, at a concurrency."""
        lengths = self.lengths
        workload = Workload(
            concurrency * self.turns,
            lengths.input_tokens,
            lengths.output_tokens,
            lengths.vocab_size,
            staggered=concurrency if self.turns >= FEWEST_STAGGERED_TURNS else 0,
        )
        return Case(self.id, self.plan, self.curve, workload, ClosedLoop(concurrency), flags=list(self.flags))


Engine = TypeVar("Engine")


def order_of_starts(engines: Sequence[Engine], starts: int) -> list[tuple[int, Engine]]:
    """(start, engine) pairs: engines interleaved, every other round reversed, so that drift does not favour one."""
    rounds = [(start, engines if start % 2 == 0 else engines[::-1]) for start in range(starts)]
    return [(start, engine) for start, order in rounds for engine in order]
