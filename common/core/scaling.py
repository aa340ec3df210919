"""Speed-up, efficiency, and the serial share that the two imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.core.plan import ParallelPlan
from common.core.stats import Estimate, ratio


def speedup(plan_rates: Sequence[float], base_rates: Sequence[float]) -> Estimate:
    """S = X_plan / X_base for rates (more is better), with Welch's interval on the logarithms."""
    return ratio("speedup", "x", plan_rates, base_rates)


def efficiency(gained: Estimate, plan: ParallelPlan, base: ParallelPlan) -> Estimate:
    """E = S * base.devices / plan.devices: 1.0 means that no device was wasted."""
    share = base.devices / plan.devices
    return replace(
        gained,
        metric="efficiency",
        unit="1",
        value=gained.value * share,
        low=None if gained.low is None else gained.low * share,
        high=None if gained.high is None else gained.high * share,
    )


def karp_flatt(gained: float, devices: int) -> float | None:
    """The serial share e = (1/S - 1/n) / (1 - 1/n) (Karp and Flatt, CACM 33(5), 1990).

    Only for strong scaling from one device; `None` for one device, where it is undefined.
    """
    if devices < 2 or gained <= 0:
        return None
    return (1 / gained - 1 / devices) / (1 - 1 / devices)
