"""Why a plan is not n times its base: the loss in four bars, from n times the base down to what was measured.

Work is told apart by what it waits for. Bars are taken off in a fixed order, which is part of the answer: another
order would share the same loss out otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

BARS = ("memory_and_batch", "communication", "other", "unexplained")


@dataclass(frozen=True)
class TokenTime:
    """Seconds that a plan, all devices together, needs for one output token, by what they wait for."""

    work_s: float
    """Device memory and arithmetic: weights, KV cache, matrix products, at the batch that the plan runs with."""
    communication_s: float
    other_s: float
    """What no device count changes: kernel launches, scheduler, sampler, API server."""


@dataclass(frozen=True)
class FourBars:
    """Tokens per second: `ideal` less the four bars is `measured`. A bar below 0 is a gain, as more KV cache gives."""

    ideal: float
    memory_and_batch: float
    communication: float
    other: float
    unexplained: float
    measured: float

    @property
    def lost(self) -> float:
        """The whole loss."""
        return self.ideal - self.measured

    def left_after(self, bar: str) -> float:
        """Tokens per second that remain when this bar and those before it are taken off."""
        taken = BARS[: BARS.index(bar) + 1]
        return self.ideal - sum(float(getattr(self, name)) for name in taken)


def four_bars(base: TokenTime, plan: TokenTime, base_rate: float, plan_rate: float, times: float) -> FourBars:
    """The loss of a plan with `times` the base's devices.

    A perfect plan does the base's token in a `times`-th of each of its parts; what the plan's parts take beyond that
    is its loss. Seconds of the model become tokens per second by the base: ideal = times x base_rate.

    Args:
        base: What a token of the base takes, by the model.
        plan: What a token of the plan takes, by the model.
        base_rate: Measured output tokens per second of the base.
        plan_rate: Measured output tokens per second of the plan.
        times: Devices of the plan over those of the base.

    Raises:
        ValueError: a rate, `times` or the base's time is not positive.
    """
    whole = base.work_s + base.communication_s + base.other_s
    if min(base_rate, plan_rate, times, whole) <= 0:
        raise ValueError("rates, devices and the base's time must be positive")
    ideal, needed = times * base_rate, whole / times
    left = [ideal]
    spent = needed
    for name in ("work_s", "communication_s", "other_s"):
        spent += getattr(plan, name) - getattr(base, name) / times
        left.append(ideal * needed / spent)
    memory, communication, other = (before - after for before, after in pairwise(left))
    return FourBars(ideal, memory, communication, other, left[-1] - plan_rate, plan_rate)
