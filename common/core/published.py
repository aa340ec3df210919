"""Measurements that others published: one workload on one machine, by number of devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HELD_BY_A_BASE = 16
"""Sequences that a plan must hold at once before others are compared with it: with fewer, it waits for memory."""


@dataclass(frozen=True)
class Published:
    """Output tokens per second of tensor-parallel plans by devices, and in `held` and `pinned` what a model says."""

    machine: str
    model: str
    engine: str
    workload: str
    source: str
    """Its URL."""
    rates: Mapping[int, float]
    held: Mapping[int, float] = field(default_factory=dict)
    """Predicted: requests of this length whose KV cache fits at once."""
    pinned: Mapping[int, float] = field(default_factory=dict)
    """Predicted: speed-up over the smallest plan with no more KV cache than that one has."""

    @property
    def smallest(self) -> int:
        """Devices of the smallest plan."""
        return min(self.rates)

    @property
    def base(self) -> int | None:
        """Devices of the smallest plan that holds 16 sequences, as far as that is predicted; None: none does."""
        return min((devices for devices in self.rates if self.held.get(devices, 0) >= HELD_BY_A_BASE), default=None)

    def speedup(self, devices: int, base: int | None = None) -> float:
        """How many times the rate of `base` devices, by default the smallest plan's.

        Raises:
            KeyError: a number of devices that was not measured.
        """
        return self.rates[devices] / self.rates[self.smallest if base is None else base]
