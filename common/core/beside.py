"""A measured case beside what was predicted for it."""

from __future__ import annotations

from dataclasses import dataclass

from common.core.loss import FourBars, TokenTime
from common.core.plan import ParallelPlan


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
    undelayed: float | None
    """What a slowed one gave left alone, by turns on the same engine; None where it has an engine to itself."""
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
