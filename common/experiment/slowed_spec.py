"""A case whose question is what slower communication costs, on an engine that is slowed and let go as it serves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from common.engines.engine import AllReduceTime, Engine
from common.engines.failures import EngineError
from common.experiment.bench import Bench
from common.experiment.load_spec import LoadSpec
from common.experiment.roofline import Roofline
from common.predict.measured import UNDELAYED
from common.store.schema import Case


@dataclass(frozen=True)
class SlowedSpec(LoadSpec):
    """A closed loop by turns as it is and with a delay in each all-reduce, on one engine: what drifts, drifts for both.

    A repeat's numbers are those with the delay, and `UNDELAYED` is the rate without it.
    """

    delay_us: float = 0.0

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Add this start's repeats to `case`, each of them a pair.

        Raises:
            EngineError: the engine died, or answered nothing.
        """
        self._warm_up(bench, case)
        for repeat in range(self.repeats):
            self._pair(bench, case, repeat)
        bench.judge(case)

    def _pair(self, bench: Bench, case: Case, repeat: int) -> None:
        requests = self.requests(case, bench.seed_of(repeat))

        def as_it_is() -> float:
            ((loaded, numbers),) = bench.sent(case, [requests], repeat)
            bench.keep(case, loaded, repeat, "-undelayed")
            return numbers["output_throughput"]

        first = as_it_is() if (bench.start + repeat) % 2 == 0 else None
        with slower(bench.engine, self.delay_us, self.streams) as times:
            ((loaded, numbers),) = bench.sent(case, [requests], repeat)
        undelayed = as_it_is() if first is None else first
        bench.keep(case, loaded, repeat)  # after the other: the case's monitor is then that of the slowed half
        case.engine["all_reduce"] = [asdict(time) for time in times]
        case.engine["settings"] = {**case.engine.get("settings", {}), "all_reduce_delay_us": self.delay_us}
        bench.enter(case, numbers | {UNDELAYED: undelayed})

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's repeats will take, warm-up included: an estimate."""
        steps = self.turns * self.lengths.output_tokens * self.repeats
        return 2 * super().seconds(roofline) + steps * roofline.shape.all_reduces_per_step * self.delay_us / 1e6

    def in_words(self) -> str:
        """Load, lengths and delay, for a person."""
        return f"{super().in_words()}, by turns with {self.delay_us:g} us in each all-reduce and without"


@contextlib.contextmanager
def slower(engine: Engine, delay_us: float, tokens: Sequence[int]) -> Iterator[Sequence[AllReduceTime]]:
    """Every all-reduce waits so long first; yields what one of so many tokens then takes, alone.

    Raises:
        EngineError: the engine does not answer.
    """
    try:
        yield engine.slow_all_reduces(delay_us, tokens)
    finally:
        with contextlib.suppress(EngineError):  # it has died, which is said elsewhere
            engine.slow_all_reduces(0.0, ())
