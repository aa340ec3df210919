"""How long a run will take and cost, before it begins. An estimate, not a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration, Spec

OVERHEAD_S = 8.0  # imports, ceilings, reports


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    cases: int
    engine_starts: int
    seconds: float

    def usd(self, usd_per_hour: float | None) -> float | None:
        """Dollars at a price of the whole machine."""
        return None if usd_per_hour is None else usd_per_hour * self.seconds / 3600


def estimate(specs: Sequence[Spec], starts: int, roofline: Roofline, repeat_base_last: bool = False) -> Estimate:
    """Starts and seconds of all cases; the first configuration is the base, started once more where it is repeated."""
    seconds: dict[Configuration, float] = {}
    for spec in specs:
        seconds.setdefault(spec.configuration, roofline.start_s(spec.configuration.plan))
        seconds[spec.configuration] += spec.seconds(roofline)
    base_again = int(repeat_base_last)
    total = starts * sum(seconds.values()) + base_again * seconds[specs[0].configuration]
    return Estimate(len(specs), len(seconds) * starts + base_again, OVERHEAD_S + roofline.once_s + total)
