"""A test of the account of a loss: make communication slower by a known time, and see whether its bar takes that in.

Bars are compared as time per output token, where parts of a step add up; as tokens per second they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.core.beside import Before, Beside
from common.core.plan import ParallelPlan

TOLERANCE = 0.1


@dataclass(frozen=True)
class KnockOut:
    """A plan before its communication is slowed and after, under the same load; seconds per output token."""

    plan: ParallelPlan
    concurrency: int
    foretold_s: float
    """What the slowed plan should need: as before, and what its all-reduces, timed alone, take longer."""
    plain_s: float
    slowed_s: float
    bar_s: float
    """By how much the communication bar grew."""

    @property
    def lost_s(self) -> float:
        """What the delay cost, measured."""
        return self.slowed_s - self.plain_s

    @property
    def error(self) -> float:
        """The bar's growth over what the delay cost, less 1."""
        return self.bar_s / self.lost_s - 1 if self.lost_s > 0 else float("inf")

    @property
    def passed(self) -> bool:
        """Whether the bar took in what the delay cost, within a tenth."""
        return abs(self.error) <= TOLERANCE


def knock_outs(found: Sequence[Beside]) -> list[KnockOut]:
    """Every slowed case beside the same plan and load as it is, the fewest streams first.

    What was measured by turns on the same engine is held against itself: between engines, and minutes, machines drift,
    and ranks that wait at all leave their cores to others, which take the place of the delay or come back cold.
    """
    alone = {(one.plan, one.concurrency): one for one in found if not one.slowed}
    pairs = [(alone[key], one) for one in found if one.slowed and (key := (one.plan, one.concurrency)) in alone]
    return [_knock_out(plain, slowed) for plain, slowed in sorted(pairs, key=lambda pair: pair[0].concurrency)]


def _knock_out(plain: Beside, slowed: Beside) -> KnockOut:
    before = slowed.before or Before(plain.measured, plain.time)
    added = slowed.time.communication_s - before.time.communication_s
    usual = 1 / before.measured
    return KnockOut(plain.plan, plain.concurrency, usual + added, usual, 1 / slowed.measured, added)
