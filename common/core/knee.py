"""Where more load stops paying, found in measured points and not by eye.

Two answers. The knee is where power, throughput over response time, is largest: below it more load costs little
waiting, above it it costs more waiting than it brings throughput (L. Kleinrock, "Power and deterministic rules of thumb
for probabilistic problems in computer communications", ICC 1979; for M/M/1 it is at half the capacity). Saturation is
where doubling the load gains less than 3 % throughput: far beyond the knee, and what a batch job wants.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.core.stats import Estimate, geometric_mean, ratio

LEAST_GAIN = 0.03
FEWEST_POINTS = 3


@dataclass(frozen=True)
class LoadPoint:
    """One load, as requests in flight or per second, and one sample of each metric per repeat (or start)."""

    load: float
    throughputs: Sequence[float]
    response_s: Sequence[float]

    def __post_init__(self) -> None:
        if not self.throughputs or len(self.throughputs) != len(self.response_s):
            raise ValueError("a load point needs as many response times as throughputs, and one at least")

    @property
    def power(self) -> Estimate:
        """Throughput over response time."""
        pairs = zip(self.throughputs, self.response_s, strict=True)
        return geometric_mean("power", "tok/s^2", [rate / response for rate, response in pairs])


@dataclass(frozen=True)
class Knee:
    """The load of the largest power.

    `between` are the lowest and the highest load tried that may be it: those whose intervals overlap with the
    largest's, and everything among them. `resolved`: it is one load, and neither the lowest nor the highest tried.
    """

    load: float
    between: tuple[float, float]
    resolved: bool
    why_not: str = ""


@dataclass(frozen=True)
class Saturation:
    """The lowest load from which the next step gains under 3 % throughput per doubling; `None` where all gain more.

    `gain` is that of the step, per doubling, as a share; `resolved`: its interval lies under the limit as a whole.
    """

    load: float | None
    gain: float | None = None
    resolved: bool = False


def knee(points: Sequence[LoadPoint]) -> Knee | None:
    """The knee of points of ascending load; `None` for fewer than three points, among which none is a middle."""
    if len(points) < FEWEST_POINTS:
        return None
    _check(points)
    powers = [point.power for point in points]
    best = max(range(len(points)), key=lambda index: powers[index].value)
    rivals = [index for index in range(len(points)) if index == best or _overlap(powers[index], powers[best])]
    between = (points[rivals[0]].load, points[rivals[-1]].load)
    why_not = ""
    if any(power.low is None for power in powers):
        why_not = "one repeat has no interval"
    elif len(rivals) > 1:
        why_not = "the intervals of neighbouring loads overlap"
    elif best in (0, len(points) - 1):
        why_not = f"it is the {'lowest' if best == 0 else 'highest'} load tried"
    return Knee(points[best].load, between, not why_not, why_not)


def saturation(points: Sequence[LoadPoint], least_gain: float = LEAST_GAIN) -> Saturation:
    """Where doubling the load gains less than `least_gain`; steps of other sizes are brought to a doubling."""
    _check(points)
    for lower, upper in itertools.pairwise(points):
        doublings = math.log2(upper.load / lower.load)
        step = ratio("gain", "1", upper.throughputs, lower.throughputs)
        gain = step.value ** (1 / doublings) - 1
        if gain < least_gain:
            resolved = step.high is not None and step.high ** (1 / doublings) - 1 < least_gain
            return Saturation(lower.load, gain, resolved)
    return Saturation(None)


def _check(points: Sequence[LoadPoint]) -> None:
    loads = [point.load for point in points]
    if any(later <= earlier for earlier, later in itertools.pairwise(loads)) or min(loads, default=1) <= 0:
        raise ValueError(f"loads must be positive and ascend, not {loads}")


def _overlap(one: Estimate, other: Estimate) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high
