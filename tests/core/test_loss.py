from __future__ import annotations

import pytest

from common.core.loss import BARS, TokenTime, four_bars

BASE = TokenTime(work_s=0.006, communication_s=0.0, other_s=0.004)  # 10 ms a token: 100 tokens/s


def test_a_perfect_plan_loses_nothing() -> None:
    bars = four_bars(BASE, TokenTime(0.003, 0.0, 0.002), 100, 200, 2)
    assert (bars.ideal, bars.measured) == (200, 200)
    assert [getattr(bars, name) for name in BARS] == pytest.approx([0, 0, 0, 0])


def test_bars_by_hand() -> None:
    """5 ms a token would be ideal; 1 ms of waiting for links and 2 of overhead that stayed: 200, 167, 125, and 120."""
    bars = four_bars(BASE, TokenTime(0.003, 0.001, 0.004), 100, 120, 2)
    assert bars.memory_and_batch == pytest.approx(0)
    assert bars.communication == pytest.approx(200 - 1 / 0.006)
    assert bars.other == pytest.approx(1 / 0.006 - 125)
    assert bars.unexplained == pytest.approx(5)
    assert bars.left_after("communication") == pytest.approx(1 / 0.006)
    assert bars.left_after("unexplained") == pytest.approx(bars.measured)
    assert sum(getattr(bars, name) for name in BARS) == pytest.approx(bars.lost)


def test_more_memory_is_a_bar_below_zero() -> None:
    bars = four_bars(BASE, TokenTime(0.002, 0.0, 0.002), 100, 250, 2)
    assert bars.memory_and_batch == pytest.approx(200 - 250)


def test_what_is_injected_into_links_appears_in_their_bar() -> None:
    """A millisecond more per token, in the model and in the measurement: the other bars stay as they are."""
    plain = four_bars(BASE, TokenTime(0.003, 0.001, 0.003), 100, 1 / 0.0071, 2)
    slowed = four_bars(BASE, TokenTime(0.003, 0.002, 0.003), 100, 1 / 0.0081, 2)
    injected = plain.measured - slowed.measured
    others = sum(getattr(slowed, name) - getattr(plain, name) for name in BARS if name != "communication")
    assert slowed.communication - plain.communication == pytest.approx(injected - others)
    assert slowed.unexplained == pytest.approx(plain.unexplained, rel=0.4)
    assert slowed.memory_and_batch == plain.memory_and_batch


@pytest.mark.parametrize("rates", [(0, 100, 2), (100, -1, 2), (100, 100, 0)])
def test_rates_and_devices_must_be_positive(rates: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        four_bars(BASE, BASE, *rates)
