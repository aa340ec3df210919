from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.stats import Estimate, geometric_mean, ratio

STUDIES = 2_000
POSITIVE = st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=8)


def test_an_exact_hand_example() -> None:
    """Logs 0, 1, 2: mean 1, standard deviation 1, standard error 1/sqrt(3); t for 97.5 % and 2 degrees: 4.302653."""
    estimate = geometric_mean("m", "u", [1.0, math.e, math.e**2])
    margin = 4.302652729911275 / math.sqrt(3)
    assert estimate.value == pytest.approx(math.e)
    assert estimate.low == pytest.approx(math.exp(1 - margin))
    assert estimate.high == pytest.approx(math.exp(1 + margin))
    assert (estimate.metric, estimate.unit, estimate.n) == ("m", "u", 3)


def test_an_exact_welch_example() -> None:
    """Logs 1, 2, 3 against 0, 2: means 2 and 1, squared errors 1/3 and 1, freedom (4/3)^2 / (1/18 + 1) = 32/19."""
    estimate = ratio("speedup", "x", [math.e, math.e**2, math.e**3], [1.0, math.e**2])
    freedom = 32 / 19
    # t for 97.5 % and 32/19 degrees of freedom, by bisection of the t density's integral (see below)
    margin = t_quantile(0.975, freedom) * math.sqrt(4 / 3)
    assert estimate.value == pytest.approx(math.e)
    assert estimate.low == pytest.approx(math.exp(1 - margin), rel=1e-4)
    assert estimate.high == pytest.approx(math.exp(1 + margin), rel=1e-4)
    assert estimate.n == 2


def t_quantile(share: float, freedom: float) -> float:
    """Student's t from its density, integrated and inverted without scipy."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    at = np.linspace(0.0, 60.0, 600_001)
    density = scale * (1 + at**2 / freedom) ** (-(freedom + 1) / 2)
    area = 0.5 + np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2 * (at[1] - at[0]))))
    return float(np.interp(share, area, at))


def covered(make: Callable[[np.random.Generator], tuple[Estimate, float]], seed: int) -> float:
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(STUDIES):
        estimate, truth = make(generator)
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= truth <= estimate.high
    return hits / STUDIES


@pytest.mark.parametrize(("count", "sigma"), [(3, 0.05), (5, 0.5)])
def test_the_t_interval_covers_the_truth_95_times_in_100(count: int, sigma: float) -> None:
    def study(generator: np.random.Generator) -> tuple[Estimate, float]:
        return geometric_mean("m", "u", generator.lognormal(math.log(40.0), sigma, count).tolist()), 40.0

    assert 0.93 <= covered(study, 17) <= 0.97


@pytest.mark.parametrize(("sizes", "sigmas"), [((3, 3), (0.05, 0.05)), ((3, 6), (0.02, 0.2)), ((8, 4), (0.3, 0.1))])
def test_welchs_interval_covers_the_true_ratio_95_times_in_100(
    sizes: tuple[int, int], sigmas: tuple[float, float]
) -> None:
    def study(generator: np.random.Generator) -> tuple[Estimate, float]:
        plan = generator.lognormal(math.log(70.0), sigmas[0], sizes[0]).tolist()
        base = generator.lognormal(math.log(50.0), sigmas[1], sizes[1]).tolist()
        return ratio("speedup", "x", plan, base), 1.4

    assert 0.93 <= covered(study, 23) <= 0.97


def test_one_sample_has_no_interval() -> None:
    single = geometric_mean("m", "u", [5.0])
    assert single.value == pytest.approx(5.0)
    assert (single.low, single.high, single.n) == (None, None, 1)
    for plan, base in (([6.0], [2.0, 4.0, 8.0]), ([3.0, 12.0], [2.0])):
        estimate = ratio("s", "x", plan, base)
        assert (estimate.low, estimate.high, estimate.n) == (None, None, 1)
    assert estimate.unresolved, "nothing is told without an interval"


def test_the_ratio_is_of_geometric_means() -> None:
    assert ratio("s", "x", [2.0, 8.0], [1.0, 4.0]).value == pytest.approx(4.0 / 2.0)


def test_equal_samples_give_an_interval_of_no_width() -> None:
    estimate = ratio("s", "x", [6.0, 6.0], [3.0, 3.0, 3.0])
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((2.0, 2.0, 2.0))
    assert not math.isnan(estimate.value)
    same = geometric_mean("m", "u", [7.0, 7.0, 7.0])
    assert (same.low, same.high) == pytest.approx((7.0, 7.0))


@settings(max_examples=60)
@given(POSITIVE, POSITIVE, st.floats(0.01, 100))
def test_intervals_hold_their_value_turn_round_and_scale(plan: list[float], base: list[float], factor: float) -> None:
    forward, backward = ratio("s", "x", plan, base), ratio("s", "x", base, plan)
    scaled = ratio("s", "x", [factor * value for value in plan], base)
    assert forward.low is not None
    assert forward.high is not None
    assert backward.low is not None
    assert scaled.low is not None
    assert forward.low <= forward.value * (1 + 1e-9)
    assert forward.value <= forward.high * (1 + 1e-9)
    if backward.low > 1e-300 and forward.high < 1e300:
        assert forward.high == pytest.approx(1 / backward.low, rel=1e-6)
        assert scaled.value == pytest.approx(factor * forward.value, rel=1e-6)
        assert scaled.low == pytest.approx(factor * forward.low, rel=1e-6)


def test_noise_widens_the_interval() -> None:
    calm, rough = geometric_mean("m", "u", [10, 10.1, 9.9]), geometric_mean("m", "u", [10, 15, 6])
    widths = [math.log(one.high / one.low) / 2 for one in (calm, rough) if one.low and one.high]
    assert widths[1] > 10 * widths[0]
    assert widths[0] == pytest.approx(4.3027 * statistics.stdev([10, 10.1, 9.9]) / math.sqrt(3) / 10, rel=0.02)


@pytest.mark.parametrize(("samples", "message"), [([], "no samples"), ([1.0, 0.0], "positive"), ([-1.0], "positive")])
def test_samples_without_a_logarithm_are_refused(samples: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometric_mean("m", "u", samples)
    with pytest.raises(ValueError, match=message):
        ratio("m", "u", [1.0, 2.0], samples)
    with pytest.raises(ValueError, match=message):
        ratio("m", "u", samples, [1.0, 2.0])


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(0.9, 1.1, True), (1.0, 1.1, True), (1.01, 1.1, False), (0.8, 0.99, False), (None, None, True)],
)
def test_unresolved_means_that_one_is_not_outside(low: float | None, high: float | None, answer: bool) -> None:
    assert Estimate("x", "", 1.0, low, high).unresolved is answer
