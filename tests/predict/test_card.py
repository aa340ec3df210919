from __future__ import annotations

import pytest

from common.core.plan import ParallelPlan
from common.predict.calibrate import stored_priors
from common.predict.card import Ask, Card, make_card, recommend, usd_per_million
from common.predict.hardware import find
from common.predict.shapes import find_shape

PLANS = [ParallelPlan(tp=size) for size in (1, 2, 4, 8)]


def ask(model: str = "Llama-3.1-8B", gpu: str = "H100", concurrency: int = 32) -> Ask:
    return Ask(find_shape(model)[0], find(gpu), 2.0, 512, 128, concurrency)


def card(measured: dict[ParallelPlan, float] | None = None, **which: str) -> Card:
    return make_card(ask(**which), PLANS, stored_priors(), measured)  # type: ignore[arg-type]


def test_measuring_narrows_the_intervals_and_says_what_the_others_foretold() -> None:
    before = card()
    assert before.next_measurement is not None
    rate = before.lines[0].output_tokens_s.value
    after = card({PLANS[0]: rate, PLANS[1]: rate * 1.6})
    for old, new in zip(before.lines[2:], after.lines[2:], strict=True):
        assert new.output_tokens_s.high / new.output_tokens_s.low < old.output_tokens_s.high / old.output_tokens_s.low
        assert new.speedup.high - new.speedup.low < old.speedup.high - old.speedup.low
    assert after.lines[1].measured == rate * 1.6
    assert after.lines[1].foretold == pytest.approx(before.lines[1].output_tokens_s.value, rel=0.05)
    assert after.lines[2].foretold is None


def test_efficiency_and_dollars_by_hand() -> None:
    line = card().lines[2]
    assert line.efficiency.value == pytest.approx(line.speedup.value / 4)
    cost = usd_per_million(line, 3.6)  # 4 devices x $3.6 an hour = $0.004 a second
    assert cost.value == pytest.approx(0.004 / line.output_tokens_s.value * 1e6)
    assert cost.low < cost.value < cost.high


def test_what_does_not_fit_or_divide_is_named_with_the_reason() -> None:
    found = make_card(ask("Llama-3.1-70B"), [*PLANS, ParallelPlan(tp=3)], stored_priors())
    assert "GB short on each device" in found.unfit[PLANS[0]]
    assert "does not divide" in found.unfit[ParallelPlan(tp=3)]
    assert [line.plan.tp for line in found.lines] == [2, 4, 8]
    assert found.lines[0].speedup.value == 1
    nothing = make_card(ask("Llama-3.1-405B", "T4"), PLANS, stored_priors())
    assert nothing.lines == ()
    with pytest.raises(ValueError, match="no plan fits"):
        recommend(nothing)


def test_a_plan_short_of_memory_is_no_base() -> None:
    """Qwen3-32B on one H100 leaves KV cache for 33,950 tokens: three requests of 10,000, so tp2 is the base."""
    shape, _ = find_shape("Qwen3-32B")
    found = make_card(Ask(shape, find("H100"), 2.0, 9000, 1000, 32), PLANS, stored_priors())
    assert found.lines[0].memory.largest_concurrency(9000, 1000) == 3
    assert found.lines[1].speedup.value == 1
    assert found.lines[0].speedup.value < 0.5


def test_pcie_and_experts_are_of_low_confidence() -> None:
    assert card().doubts == ()
    assert "PCIe" in card(gpu="L40S").doubts[0]
    assert "experts" in card(model="Qwen3-30B-A3B").doubts[0]


@pytest.mark.parametrize("concurrency", [0, -3])
def test_loads_below_one_are_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match="1 is the least"):
        ask(concurrency=concurrency)
