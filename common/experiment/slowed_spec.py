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
from common.predict.measured import ALL_REDUCE, ALL_REDUCE_BEFORE, BEFORE, STEPS, THROUGHPUT
from common.store.schema import Case

SHORT_US = 1_000.0  # before the delay
COMPARED = (THROUGHPUT, STEPS)


@dataclass(frozen=True)
class SlowedSpec(LoadSpec):
    """A closed loop by turns before a delay in each all-reduce and with it, on one engine: what drifts, does for both.

    All-reduces wait a little before, too. That a rank waits at all lets the server work on its core and the core cool
    down, 6 ms a step on two slices whatever the wait's length; it is not what the delay costs. A repeat's numbers are
    those with the delay; rate and steps before it begin with `BEFORE`.
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
        waits_us = {ALL_REDUCE_BEFORE: SHORT_US, ALL_REDUCE: SHORT_US + self.delay_us}
        found = {}
        for half in list(waits_us) if (bench.start + repeat) % 2 == 0 else list(waits_us)[::-1]:
            with slower(bench.engine, waits_us[half], self.streams) as times:
                (found[half],) = bench.sent(case, [requests], repeat)
            case.engine[half] = [asdict(time) for time in times]
        (early, before), (loaded, numbers) = found[ALL_REDUCE_BEFORE], found[ALL_REDUCE]
        bench.keep(case, early, repeat, "-before")
        bench.keep(case, loaded, repeat)  # last: the case's monitor is then that of the slowed half
        case.engine["all_reduce_wait_us"] = waits_us
        bench.enter(case, numbers | {f"{BEFORE}{name}": before[name] for name in COMPARED if name in before})

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's repeats will take, warm-up included: an estimate."""
        calls = self.turns * self.lengths.output_tokens * self.repeats * roofline.shape.all_reduces_per_step
        return 2 * super().seconds(roofline) + calls * (2 * SHORT_US + self.delay_us) / 1e6

    def in_words(self) -> str:
        """Load, lengths and delay, for a person."""
        return f"{super().in_words()}, by turns before and with {self.delay_us:g} us in each all-reduce"


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
