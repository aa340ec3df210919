"""A measured case beside what was predicted for it."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.loss import FourBars, TokenTime
from common.core.plan import ParallelPlan


@dataclass(frozen=True)
class Before:
    """What a slowed case's engine gave, by turns with that, while its all-reduces waited for a short time only."""

    measured: float
    """Output tokens per second."""
    time: TokenTime


@dataclass(frozen=True)
class Beside:
    """One measured case beside its prediction, both in output tokens per second."""

    case: str
    plan: ParallelPlan
    concurrency: int
    measured: float
    calibrates: bool
    """Whether the prediction was made with it; its own error then says nothing."""
    predicted: float
    low: float
    high: float
    bars: FourBars | None
    """From n times the smallest plan's rate at the same load; None where that was not measured."""
    time: TokenTime
    """What an output token takes by the model."""
    slowed: bool
    """Whether its communication was knocked out."""
    before: Before | None
    """Of a slowed case what it is held against; None where that is a case with an engine of its own."""
    doubts: tuple[str, ...] = ()
    """Why the prediction is of low confidence, its interval wider; empty where nothing speaks against it."""

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether what was measured lies in the predicted interval."""
        return self.low <= self.measured <= self.high
