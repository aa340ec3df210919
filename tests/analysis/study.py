"""A whole study with planted truth: speed-up, noise between and inside engine starts, drift, and known mistakes.

The order of the engine starts is the sweep's own, so what its interleaving is worth is part of what is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.analysis.checks import case_checks
from common.core.plan import ParallelPlan
from common.experiment.spec import order_of_starts
from common.store.schema import Case, Result
from tests.analysis.planted import TP1, TP2, case, result

BASE_RATE = 300.0


@dataclass(frozen=True)
class Study:
    """What is true, and what blurs it; spreads are standard deviations of the logarithm."""

    speedup: float = 1.5
    starts: int = 3
    repeats: int = 2
    between_starts: float = 0.03
    inside_start: float = 0.01
    drift: float = 0.0  # of the machine, from the first engine start to the last
    first_repeat: float = 1.0  # what a start's first repeat reaches of its true rate
    curve: str = "fixed"
    streams: int = 16

    def run(self, seed: int, plans: Sequence[ParallelPlan] = (TP1, TP2)) -> Result:
        """Measure it once, with the base repeated last."""
        chance = np.random.default_rng(seed)
        order = [*order_of_starts(plans, self.starts), (self.starts, plans[0])]
        cases = {plan: case(plan, self.curve, self.streams, []) for plan in plans}
        for place, (start, plan) in enumerate(order):
            rate = BASE_RATE * (self.speedup if plan != plans[0] else 1.0)
            rate *= 1 + self.drift * place / (len(order) - 1)
            rate *= np.exp(chance.normal(0, self.between_starts))
            for repeat in range(self.repeats):
                measured = rate * np.exp(chance.normal(0, self.inside_start))
                measured *= self.first_repeat if repeat == 0 else 1.0
                self._add(cases[plan], start, repeat, float(measured))
        for one in cases.values():
            one.checks = case_checks(one)
        return result(list(cases.values()))

    def _add(self, one: Case, start: int, repeat: int, rate: float) -> None:
        tpot_ms = 1e3 * self.streams / rate
        one.repeats.append(
            {
                "start": float(start),
                "repeat": float(repeat),
                "duration": 2.0,
                "output_throughput": rate,
                "median_ttft_ms": 5 * tpot_ms,
                "median_tpot_ms": tpot_ms,
            }
        )
