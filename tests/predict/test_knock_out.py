from __future__ import annotations

from dataclasses import replace

import pytest

from common.predict.calibrate import stored_priors
from common.predict.knock_out import knock_outs
from common.predict.measured import BEFORE, SLOWED, STEPS, NotPredictableError, cpu_priors, predict_result
from common.store.schema import Case, Result
from tests.predict.test_measured import LOADS, TP1, TP2, planted

DELAY_S, ALL_REDUCES = 0.5e-3, 17


def timed(seconds: float) -> list[dict[str, float]]:
    """All-reduces as an engine reports them, at two message sizes."""
    return [{"bytes": 2048.0, "seconds": seconds}, {"bytes": 2048.0 * 64, "seconds": 3 * seconds}]


def with_knock_out(cost_s: float = DELAY_S) -> Result:
    """A planted result in which each all-reduce of the slowed tp2 costs so much, and measures `DELAY_S` longer."""
    result = planted([TP1, TP2], cpu_priors(stored_priors()))
    slowed = []
    for case in result.cases:
        if case.plan == TP2:
            case.engine["all_reduce"] = timed(10e-6)
            slowed.append(slower(case, cost_s))
    return replace(result, cases=[*result.cases, *slowed])


def slower(case: Case, cost_s: float) -> Case:
    load = int(case.id.rpartition("c")[2])
    per_token_s = 1 / case.repeats[0]["output_throughput"] + ALL_REDUCES * cost_s / load
    later = [{"bytes": one["bytes"], "seconds": one["seconds"] + DELAY_S} for one in timed(10e-6)]
    return replace(
        case,
        id=f"{case.plan}/{SLOWED}/c{load}",
        curve=SLOWED,
        repeats=[case.repeats[0] | {"output_throughput": 1 / per_token_s}],
        engine={"all_reduce": later},
    )


def test_the_communication_bar_takes_in_what_a_delay_costs() -> None:
    tests = knock_outs(predict_result(with_knock_out(), stored_priors()))
    assert [one.concurrency for one in tests] == list(LOADS)
    for one in tests:
        assert one.lost_s == pytest.approx(ALL_REDUCES * DELAY_S / one.concurrency)
        assert one.error == pytest.approx(0, abs=0.01)
        assert one.passed and one.foretold_s == pytest.approx(one.slowed_s, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 2.0, 0.0])
def test_an_account_that_is_wrong_fails(share: float) -> None:
    """A delay that costs half or twice of what timing it says, or nothing, is not explained by communication."""
    tests = knock_outs(predict_result(with_knock_out(share * DELAY_S), stored_priors()))
    assert tests and not any(one.passed for one in tests)


def test_what_was_measured_by_turns_is_held_against_itself() -> None:
    """The machine is a third slower while the delay is tried, and waits before, too: another case says nothing.

    And its server counts a tenth more passes than tokens would need.
    """
    result, short_s = with_knock_out(), 0.2e-3
    for case in result.cases:
        if case.curve == SLOWED:
            (repeat,) = case.repeats
            load = int(case.id.rpartition("c")[2])
            calls = 1.1 * ALL_REDUCES / load
            usual_s = 1.33 * (1 / repeat["output_throughput"] - ALL_REDUCES * DELAY_S / load)
            waits = {f"{BEFORE}output_throughput": short_s, "output_throughput": DELAY_S}
            steps = {f"{BEFORE}{STEPS}": 1.1 * 640 / load, STEPS: 1.1 * 640 / load, "total_output_tokens": 640.0}
            case.repeats = [repeat | {name: 1 / (usual_s + calls * wait_s) for name, wait_s in waits.items()} | steps]
            case.engine["all_reduce_before"] = [one | {"seconds": one["seconds"] + short_s} for one in timed(10e-6)]
    for one in knock_outs(predict_result(result, stored_priors())):
        assert one.lost_s == pytest.approx(1.1 * ALL_REDUCES * (DELAY_S - short_s) / one.concurrency)
        assert one.passed and one.error == pytest.approx(0, abs=0.01)


def test_a_slowed_case_calibrates_nothing() -> None:
    slowed = [one for one in predict_result(with_knock_out(), stored_priors()) if one.slowed]
    assert len(slowed) == len(LOADS) and not any(one.calibrates for one in slowed)


def test_a_delay_that_was_not_timed_is_said() -> None:
    result = with_knock_out()
    for case in result.cases:
        case.engine.clear()
    with pytest.raises(NotPredictableError, match="tp2/slowed/c1: its all-reduces were not timed"):
        predict_result(result, stored_priors())
