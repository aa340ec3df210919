from __future__ import annotations

import pytest

from common.core.plan import ParallelPlan
from common.core.scaling import efficiency, karp_flatt, speedup
from common.core.stats import Estimate


def test_speedup_is_plan_over_base() -> None:
    gained = speedup([150.0, 150.0], [100.0, 100.0])
    assert (gained.metric, gained.unit) == ("speedup", "x")
    assert gained.value == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("plan", "base", "expected"),
    [
        (ParallelPlan(tp=2), ParallelPlan(), 0.75),
        (ParallelPlan(tp=4), ParallelPlan(), 0.375),
        (ParallelPlan(tp=4), ParallelPlan(tp=2), 0.75),
        (ParallelPlan(tp=2, replicas=2), ParallelPlan(tp=2), 0.75),
        (ParallelPlan(tp=2, pp=2, dp=2), ParallelPlan(tp=2), 0.375),
    ],
)
def test_efficiency_is_speedup_per_device_against_the_base(
    plan: ParallelPlan, base: ParallelPlan, expected: float
) -> None:
    share = base.devices / plan.devices
    kept = efficiency(Estimate("speedup", "x", 1.5, 1.4, 1.6, 3), plan, base)
    assert kept.value == pytest.approx(expected)
    assert (kept.low, kept.high) == pytest.approx((1.4 * share, 1.6 * share))
    assert (kept.metric, kept.unit, kept.n) == ("efficiency", "1", 3)


def test_no_interval_stays_no_interval() -> None:
    kept = efficiency(Estimate("speedup", "x", 1.5), ParallelPlan(tp=2), ParallelPlan())
    assert (kept.low, kept.high) == (None, None)


@pytest.mark.parametrize(
    ("gained", "devices", "serial"),
    [
        # Karp and Flatt 1990: e = (1/S - 1/p) / (1 - 1/p); Amdahl's law S = 1 / (f + (1 - f)/p) gives back f
        (1 / (0.10 + 0.90 / 8), 8, 0.10),
        (1 / (0.25 + 0.75 / 4), 4, 0.25),
        (1.5, 2, 1 / 3),
        (4.0, 4, 0.0),
        (1.0, 4, 1.0),
        (4.5, 4, (1 / 4.5 - 0.25) / 0.75),
    ],
)
def test_karp_flatt_gives_back_amdahls_serial_share(gained: float, devices: int, serial: float) -> None:
    assert karp_flatt(gained, devices) == pytest.approx(serial, abs=1e-12)


@pytest.mark.parametrize(("gained", "devices"), [(1.0, 1), (0.0, 2), (-1.0, 2)])
def test_karp_flatt_is_undefined_here(gained: float, devices: int) -> None:
    assert karp_flatt(gained, devices) is None
