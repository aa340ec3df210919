from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.arrivals import ClosedLoop, OpenLoop


@settings(max_examples=60)
@given(
    rate=st.floats(0.1, 1e4),
    burstiness=st.floats(0.2, 50),
    requests=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_every_seed_ends_exactly_when_the_rate_says(rate: float, burstiness: float, requests: int, seed: int) -> None:
    times = OpenLoop(rate, burstiness).schedule_s(requests, seed)
    assert times.shape == (requests,)
    assert times[-1] == pytest.approx(requests / rate)
    assert (times > 0).all()
    assert (np.diff(times) >= 0).all()


def test_constant_gaps() -> None:
    times = OpenLoop(4.0, None).schedule_s(5, seed=1)
    assert times.tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])


def test_a_seed_is_a_schedule() -> None:
    arrivals = OpenLoop(10.0)
    assert arrivals.schedule_s(50, 1).tolist() == arrivals.schedule_s(50, 1).tolist()
    assert arrivals.schedule_s(50, 1).tolist() != arrivals.schedule_s(50, 2).tolist()


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, 25.0])
def test_gaps_vary_as_a_gamma_distribution_does(burstiness: float) -> None:
    """Mean 1/rate and squared coefficient of variation 1/burstiness."""
    gaps = np.diff(OpenLoop(50.0, burstiness).schedule_s(40_000, seed=5), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50)
    assert (gaps.std() / gaps.mean()) ** 2 == pytest.approx(1 / burstiness, rel=0.1)


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    times = OpenLoop(20.0).schedule_s(40_000, seed=11)
    counts = np.histogram(times, bins=np.arange(0, 2_000))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.12)


def test_a_ramp_rises_from_the_first_rate_to_the_last() -> None:
    times = OpenLoop(2.0, None, final_rate_per_s=10.0).schedule_s(5, seed=0)
    assert times.tolist() == pytest.approx(np.cumsum([1 / 2, 1 / 4, 1 / 6, 1 / 8, 1 / 10]).tolist())


def test_a_random_ramp_ends_with_the_constant_one() -> None:
    smooth = OpenLoop(2.0, None, final_rate_per_s=10.0).schedule_s(400, seed=0)
    rough = OpenLoop(2.0, 1.0, final_rate_per_s=10.0).schedule_s(400, seed=0)
    assert rough[-1] == pytest.approx(smooth[-1])
    early, late = np.diff(rough)[:100].mean(), np.diff(rough)[-100:].mean()
    assert early > 1.8 * late


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_closed_loop_without_slots_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        ClosedLoop(concurrency)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rate_per_s", (0.0,)),
        ("rate_per_s", (-1.0,)),
        ("rate_per_s", (math.nan,)),
        ("burstiness", (1.0, 0.0)),
        ("final_rate_per_s", (1.0, 1.0, 0.0)),
    ],
)
def test_rates_that_mean_nothing_are_refused(name: str, arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        OpenLoop(*arguments)
