"""Engines, spares, machines, dollars, and where another answer begins; against counting by hand and by force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.capacity import (
    Capacity,
    Prices,
    least,
    need,
    other_plan_above,
    other_plan_below,
    usd_per_million_tokens,
)
from common.core.plan import ParallelPlan

TP1, TP2, TP4 = ParallelPlan(), ParallelPlan(tp=2), ParallelPlan(tp=4)


@pytest.mark.parametrize(
    ("rate", "engines", "devices", "machines"),
    [(0.1, 1, 4, 1), (5.0, 1, 4, 1), (5.001, 2, 6, 2), (10.0, 2, 6, 2), (35.0, 7, 16, 4), (35.1, 8, 18, 5)],
)
def test_one_engine_more_than_the_rate_takes(rate: float, engines: int, devices: int, machines: int) -> None:
    """tp2 carries 5/s; a machine of four devices holds two engines."""
    found = need(Capacity(TP2, {1: 5.0}), rate, 4)
    assert (found.engines, found.devices, found.machines) == (engines, devices, machines)


def test_an_engine_is_not_split_over_machines_unless_it_must() -> None:
    assert need(Capacity(TP2, {1: 5.0}), 10.0, 3).machines == 3, "the third device of each machine stays idle"
    assert need(Capacity(TP4, {1: 5.0}), 10.0, 2).machines == 6


def test_what_was_measured_side_by_side_is_not_assumed() -> None:
    capacity = Capacity(TP1, {1: 10.0, 4: 32.0})
    assert [capacity.rate(count) for count in (1, 2, 4, 5, 8)] == [10.0, 16.0, 32.0, 40.0, 64.0]
    assert [capacity.is_assumed(count) for count in (1, 2, 4, 8)] == [False, True, False, True]
    assert [capacity.engines_for(rate) for rate in (10.0, 10.1, 32.0, 33.0, 41.0)] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ("carried", "rate", "devices", "together", "unseen"),
    [
        ({1: 5.0}, 15.0, 2, 2, True),  # three and a spare on two machines
        ({1: 5.0, 2: 8.0}, 15.0, 2, 2, False),
        ({1: 5.0, 2: 8.0}, 15.0, 8, 4, True),  # two were seen, four and a spare stand on one
        ({1: 5.0}, 5.0, 8, 1, False),  # the spare beside it carries nothing
        ({1: 5.0}, 50.0, 1, 1, False),  # a machine of its own for each
    ],
)
def test_engines_that_share_a_machine_were_seen_together_or_not(
    carried: dict[int, float], rate: float, devices: int, together: int, unseen: bool
) -> None:
    found = need(Capacity(TP1, carried), rate, devices)
    assert (found.together, found.shares_unseen) == (together, unseen)


def test_two_engines_carry_no_less_than_one() -> None:
    capacity = Capacity(TP1, {1: 10.0, 2: 3.0})
    assert [capacity.rate(count) for count in (1, 2, 3, 4)] == [10.0, 10.0, 15.0, 20.0]
    assert capacity.engines_for(16.0) == 4


@given(st.floats(0.01, 1e9), st.floats(0.01, 1e4))
def test_engines_carry_the_rate_and_one_fewer_would_not(rate: float, each: float) -> None:
    capacity = Capacity(TP1, {1: each})
    engines = capacity.engines_for(rate)
    assert capacity.rate(engines) >= rate * (1 - 1e-8)
    assert engines == 1 or capacity.rate(engines - 1) < rate


@pytest.mark.parametrize("carried", [{}, {1: 0.0}, {1: -1.0}, {1: math.inf}, {1: math.nan}])
def test_what_is_no_capacity(carried: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        Capacity(TP1, carried)


def test_the_least_is_by_machines_then_devices() -> None:
    slow, fast = Capacity(TP1, {1: 8.0}), Capacity(TP2, {1: 10.0})
    chosen = least([fast, slow], 20.0, 2)
    assert chosen is not None and chosen.capacity.engine == TP1, "4 devices against 6: a spare of tp2 is two devices"
    assert least([], 20.0, 2) is None


def test_of_plans_that_need_the_same_the_one_that_carries_most_is_taken() -> None:
    split, staged = Capacity(TP2, {1: 10.0}), Capacity(ParallelPlan(pp=2), {1: 9.0})
    tied = least([staged, split], 9.0, 2)
    assert tied is not None and tied.capacity.engine == TP2, "one engine of either, and pp2 comes first by name"


def brute(capacities: list[Capacity], rate: float, devices: int) -> ParallelPlan:
    found = least(capacities, rate, devices)
    assert found is not None
    return found.capacity.engine


# In hundredths: turning points are then the same or further apart than the step by which the test looks beyond one
RATES = st.integers(100, 3_000).map(lambda hundredths: hundredths / 100)


@settings(max_examples=30)
@given(RATES, RATES, RATES, st.integers(1, 8))
def test_turning_points_are_where_the_plan_changes(rate: float, one: float, two: float, devices: int) -> None:
    capacities = [Capacity(TP1, {1: one}), Capacity(TP2, {1: two})]
    now = brute(capacities, rate, devices)
    above, below = (find(capacities, rate, devices) for find in (other_plan_above, other_plan_below))
    end = 10 * rate if above is None else above.rate
    begin = rate / 10 if below is None else below.rate
    inside = [value for value in np.linspace(begin, end, 100) if begin * 1.000001 < value < end * 0.999999]
    assert all(brute(capacities, float(value), devices) == now for value in inside)
    if above is not None:
        assert brute(capacities, above.rate * 1.00001, devices) == above.need.capacity.engine != now
    if below is not None:
        assert brute(capacities, below.rate, devices) == below.need.capacity.engine != now


def test_dollars_by_hand() -> None:
    prices = Prices(usd_per_hour=10.0, buy_usd=36_000.0, months=36.0, watts=1_000.0, usd_per_kwh=0.2)
    assert prices.rented_usd == 7_300.0
    assert prices.power_usd == pytest.approx(146.0)
    assert prices.bought_usd == pytest.approx(1_146.0)
    assert prices.even_usd_per_hour == pytest.approx(1_146.0 / 730)
    assert prices.even_months == pytest.approx(36_000 / (7_300 - 146))


def test_what_is_not_known_costs_nothing_known() -> None:
    assert Prices().rented_usd is Prices().bought_usd is Prices().power_usd is Prices().even_usd_per_hour is None
    assert Prices(buy_usd=1.0).bought_usd is None, "without months nothing can be written off"
    assert Prices(buy_usd=36.0, months=36.0).bought_usd == 1.0
    assert Prices(usd_per_hour=0.001, buy_usd=1.0, months=1.0, watts=1e5, usd_per_kwh=1.0).even_months is None


def test_a_million_tokens_at_a_thousand_a_second_take_a_thousand_seconds() -> None:
    assert usd_per_million_tokens(usd_per_hour=3.6, tokens_per_s=1000) == pytest.approx(1.0)
