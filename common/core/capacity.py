"""How many engines a rate of requests needs, what they cost, and where another answer begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.core.plan import ParallelPlan

HOURS_PER_MONTH = 730.0  # a year's hours over twelve
REACH = 10.0  # turning points are looked for from a tenth of the rate to ten times it
MOST_STEPS = 1_000  # and over so many engines of a plan
ROUNDING = 1e-9  # a rate that is met but for rounding is met


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float:
    """Dollars for a million tokens: dollars per second over tokens per second, times 10^6."""
    return usd_per_hour / 3600 / tokens_per_s * 1e6


@dataclass(frozen=True)
class Capacity:
    """Requests per second that engines of one plan carry within the limits, by how many of them shared a machine.

    Beyond what was measured engines are assumed to add up: as many times the rate of the largest number that was
    measured together; between two numbers, a share of the larger one's rate.

    Raises:
        ValueError: nothing carried, or a rate that is not positive and finite.
    """

    engine: ParallelPlan
    carried: Mapping[int, float]
    predicted: bool = False

    def __post_init__(self) -> None:
        if not self.carried or not all(0 < rate < math.inf for rate in self.carried.values()):
            raise ValueError(f"{self.engine}: rates are positive and finite, not {dict(self.carried)}")

    def rate(self, engines: int) -> float:
        """Requests per second of so many engines; never less than fewer were seen to carry, for the rest may idle."""
        known = min((count for count in self.carried if count >= engines), default=max(self.carried))
        shared = self._with_idle(known) * engines / known
        return max(shared, self._with_idle(engines))

    def is_assumed(self, engines: int) -> bool:
        """Whether so many engines were never measured side by side."""
        return engines not in self.carried

    def _with_idle(self, engines: int) -> float:
        return max((rate for count, rate in self.carried.items() if count <= engines), default=0.0)

    def engines_for(self, rate: float) -> int:
        """The fewest engines that carry a rate."""
        most = max(self.carried)
        for engines in range(1, most + 1):
            if self.rate(engines) >= rate * (1 - ROUNDING):
                return engines
        return max(most + 1, math.ceil(rate / self.rate(most) * most * (1 - ROUNDING)))


@dataclass(frozen=True)
class Need:
    """What a rate takes: `engines` carry it, `spares` more may be lost; `machine_devices` are a machine's devices."""

    capacity: Capacity
    engines: int
    machine_devices: int
    spares: int = 1

    @property
    def devices(self) -> int:
        """Devices of all engines, spares included."""
        return (self.engines + self.spares) * self.capacity.engine.devices

    @property
    def machines(self) -> int:
        """Whole machines that hold them; an engine is spread over machines only where one is too small for it."""
        per_engine = self.capacity.engine.devices
        if per_engine > self.machine_devices:
            return (self.engines + self.spares) * -(-per_engine // self.machine_devices)
        return -(-(self.engines + self.spares) // (self.machine_devices // per_engine))

    @property
    def together(self) -> int:
        """Engines of those that carry the rate that at least one machine holds."""
        return min(self.engines, -(-(self.engines + self.spares) // self.machines))

    @property
    def shares_unseen(self) -> bool:
        """Whether a machine holds more of them than were seen to carry anything side by side."""
        return self.together > max(self.capacity.carried)

    @property
    def rank(self) -> tuple[int, int, int, float, str]:
        """Least first: whole machines, then devices, then engines to look after; of equals, most to spare first."""
        return self.machines, self.devices, self.engines, -self.capacity.rate(self.engines), str(self.capacity.engine)


@dataclass(frozen=True)
class Turn:
    """Where the answer changes: from this rate on (or down to it) `need` is the least."""

    rate: float
    need: Need


def need(capacity: Capacity, rate: float, machine_devices: int) -> Need:
    """What a rate takes of one plan, with one spare engine."""
    return Need(capacity, capacity.engines_for(rate), machine_devices)


def least(capacities: Sequence[Capacity], rate: float, machine_devices: int) -> Need | None:
    """The plan that needs fewest machines, then devices, then engines, then carries most; None without plans."""
    return min((need(one, rate, machine_devices) for one in capacities), key=lambda one: one.rank, default=None)


def other_plan_above(capacities: Sequence[Capacity], rate: float, machine_devices: int) -> Turn | None:
    """The first larger rate, up to ten times, beyond which another plan needs least."""
    now = least(capacities, rate, machine_devices)
    for step in sorted(step for step in _steps(capacities, rate) if rate <= step < REACH * rate):
        found = least(capacities, step * (1 + 10 * ROUNDING), machine_devices)
        if now is not None and found is not None and found.capacity.engine != now.capacity.engine:
            return Turn(step, found)
    return None


def other_plan_below(capacities: Sequence[Capacity], rate: float, machine_devices: int) -> Turn | None:
    """The first smaller rate, down to a tenth, from which downwards another plan needs least."""
    now = least(capacities, rate, machine_devices)
    for step in sorted((step for step in _steps(capacities, rate) if rate / REACH < step < rate), reverse=True):
        found = least(capacities, step, machine_devices)
        if now is not None and found is not None and found.capacity.engine != now.capacity.engine:
            return Turn(step, found)
    return None


@dataclass(frozen=True)
class Prices:
    """What one machine costs; None is not known, and what rests on it is not either."""

    usd_per_hour: float | None = None
    buy_usd: float | None = None
    months: float | None = None  # over which a purchase is written off
    watts: float | None = None  # of the whole machine, at work
    usd_per_kwh: float | None = None

    @property
    def rented_usd(self) -> float | None:
        """Dollars per month of a rented machine."""
        return None if self.usd_per_hour is None else HOURS_PER_MONTH * self.usd_per_hour

    @property
    def power_usd(self) -> float | None:
        """Dollars per month of a bought machine's electricity."""
        if self.watts is None or self.usd_per_kwh is None:
            return None
        return self.watts / 1e3 * HOURS_PER_MONTH * self.usd_per_kwh

    @property
    def bought_usd(self) -> float | None:
        """Dollars per month of a bought machine: its write-off, and its electricity where that is known."""
        if self.buy_usd is None or self.months is None:
            return None
        return self.buy_usd / self.months + (self.power_usd or 0.0)

    @property
    def even_usd_per_hour(self) -> float | None:
        """The hourly price at which renting costs as much as owning."""
        return None if self.bought_usd is None else self.bought_usd / HOURS_PER_MONTH

    @property
    def even_months(self) -> float | None:
        """Months of use after which buying has cost less than renting; None where it never does, or is not known."""
        if self.buy_usd is None or self.rented_usd is None:
            return None
        saved = self.rented_usd - (self.power_usd or 0.0)
        return self.buy_usd / saved if saved > 0 else None


def _steps(capacities: Sequence[Capacity], rate: float) -> set[float]:
    """Rates at which some plan needs one engine more, near the rate."""
    steps: set[float] = set()
    for capacity in capacities:
        first, last = capacity.engines_for(rate / REACH), capacity.engines_for(rate * REACH)
        now = capacity.engines_for(rate)
        near = range(max(first, now - MOST_STEPS), min(last, now + MOST_STEPS) + 1)
        steps |= {capacity.rate(engines) for engines in near}
    return steps
