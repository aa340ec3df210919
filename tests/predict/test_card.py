from __future__ import annotations

import pytest

from common.core.plan import ParallelPlan
from common.predict.calibrate import stored_priors
from common.predict.card import Card, Line, make_card, recommend, usd_per_million
from common.predict.hardware import find
from common.predict.shapes import find_shape
from common.predict.wanted import Ask

PLANS = [ParallelPlan(tp=size) for size in (1, 2, 4, 8)]


def ask(model: str = "Llama-3.1-8B", gpu: str = "H100", concurrency: int = 32) -> Ask:
    return Ask(find_shape(model)[0], find(gpu), 2.0, 512, 128, concurrency)


def card(measured: dict[ParallelPlan, float] | None = None, **which: str) -> Card:
    return make_card(ask(**which), PLANS, stored_priors(), measured)  # type: ignore[arg-type]


def speeds(found: Card) -> list[Line]:
    return [line for _, line in found.claimed]


def test_measuring_narrows_the_intervals_and_says_what_the_others_foretold() -> None:
    before = card()
    assert before.next_measurement is not None
    rate = speeds(before)[0].output_tokens_s.value
    after = card({PLANS[0]: rate, PLANS[1]: rate * 1.6})
    for old, new in zip(speeds(before)[2:], speeds(after)[2:], strict=True):
        assert new.output_tokens_s.high / new.output_tokens_s.low < old.output_tokens_s.high / old.output_tokens_s.low
        assert new.speedup.high - new.speedup.low < old.speedup.high - old.speedup.low
    assert speeds(after)[1].measured == rate * 1.6
    assert speeds(after)[1].foretold == pytest.approx(speeds(before)[1].output_tokens_s.value, rel=0.05)
    assert speeds(after)[2].foretold is None


@pytest.mark.parametrize(("second", "doubted"), [(1_000_000.0, True), (100.0, True), (1390.0, False), (300.0, False)])
def test_rates_that_are_hardly_of_one_load_are_doubted(second: float, doubted: bool) -> None:
    found = card({PLANS[0]: 812.0, PLANS[1]: second}).doubts
    assert any(f"tp1 gives 812 and tp2 {second:,.0f}, far apart" in doubt for doubt in found) is doubted


def test_efficiency_and_dollars_by_hand() -> None:
    line = speeds(card())[2]
    assert line.efficiency.value == pytest.approx(line.speedup.value / 4)
    cost = usd_per_million(PLANS[2], line, 3.6)  # 4 devices x $3.6 an hour = $0.004 a second
    assert cost.value == pytest.approx(0.004 / line.output_tokens_s.value * 1e6)
    assert cost.low < cost.value < cost.high


def test_what_does_not_fit_or_divide_is_named_with_the_reason() -> None:
    found = make_card(ask("Llama-3.1-70B"), [*PLANS, ParallelPlan(tp=3)], stored_priors())
    assert "GB short on each device" in found.unfit[PLANS[0]]
    assert "does not divide" in found.unfit[ParallelPlan(tp=3)]
    assert "nearest that do: tp2" in found.unfit[ParallelPlan(tp=3)]
    assert [one.plan.tp for one in found.fits] == [2, 4, 8]
    assert speeds(found)[0].speedup.value == 1
    nothing = make_card(ask("Llama-3.1-405B", "T4"), PLANS, stored_priors())
    assert nothing.fits == ()
    with pytest.raises(ValueError, match="no plan fits"):
        recommend(nothing)


def test_a_plan_short_of_memory_is_no_base() -> None:
    """Qwen3-32B on one H100 leaves KV cache for 33,950 tokens: three requests of 10,000, so tp2 is the base."""
    shape, _ = find_shape("Qwen3-32B")
    found = make_card(Ask(shape, find("H100"), 2.0, 9000, 1000, 32), PLANS, stored_priors())
    assert found.fits[0].largest_concurrency == 3
    assert speeds(found)[1].speedup.value == 1
    assert speeds(found)[0].speedup.value < 0.5


def test_the_recommended_plan_has_a_reason() -> None:
    plan, reason = recommend(card({PLANS[0]: 2000.0, PLANS[1]: 2400.0, PLANS[2]: 2600.0, PLANS[3]: 2700.0}))
    assert plan == PLANS[0]
    assert "2000 tok/s per device, the most of all plans; tp8 gives 1.35 times as much from 8 devices" in reason


def test_experts_over_devices_are_claimed_only_once_some_were_measured() -> None:
    shape, _ = find_shape("Qwen3-30B-A3B")
    asked = Ask(shape, find("H100"), 2.0, 512, 128, 32)
    plans = [ParallelPlan(tp=2), ParallelPlan(tp=2, ep=True), ParallelPlan(tp=1, dp=2, ep=True)]
    found = make_card(asked, plans, stored_priors())
    assert [one.speed is None for one in found.fits] == [False, True, True]
    assert all(one.bytes_per_token > 0 and one.memory.kv_tokens > 0 for one in found.fits)
    measured = make_card(asked, plans, stored_priors(), {plans[1]: 3000.0})
    assert all(one.speed is not None for one in measured.fits)


def test_pcie_and_experts_are_of_low_confidence() -> None:
    assert card().doubts == ()
    assert "PCIe" in card(gpu="L40S").doubts[0]
    assert "experts" in card(model="Qwen3-30B-A3B").doubts[0]


@pytest.mark.parametrize("concurrency", [0, -3])
def test_loads_below_one_are_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match="1 is the least"):
        ask(concurrency=concurrency)
