"""A run that must end in time, against a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from common.core.plan import ParallelPlan
from common.experiment.budget import Budget
from common.experiment.estimate import OVERHEAD_S, estimate
from common.experiment.load_spec import Lengths, LoadSpec
from common.experiment.roofline import Roofline
from common.experiment.spec import Spec
from tests.experiment.test_estimate import ROOFLINE

ONE = LoadSpec(ParallelPlan(), "fixed", 1, Lengths(32, 32, 10_240), turns=2, repeats=3)
TWO = replace(ONE, plan=ParallelPlan(tp=2))
MINOR = replace(ONE, curve="weak", load=8)
CASE_S, TWO_S, MINOR_S = (spec.seconds(ROOFLINE) for spec in (ONE, TWO, MINOR))
ONCE_S = ROOFLINE.once_s  # of the first engine start
START_S, TWO_START_S = (ROOFLINE.start_s(spec.plan) for spec in (ONE, TWO))


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def begun(seconds: float, by_value: Sequence[Spec], clock: Clock, roofline: Roofline = ROOFLINE) -> Budget:
    budget = Budget(seconds, roofline, clock)
    order = sorted(by_value, key=lambda spec: spec.configuration.plan.devices)
    budget.begin([(0, spec) for spec in order], by_value)
    return budget


def test_the_most_valuable_cases_are_chosen_and_a_start_is_paid_once() -> None:
    enough = OVERHEAD_S + ONCE_S + START_S + CASE_S + MINOR_S
    assert Budget(enough + 0.1, ROOFLINE).affordable([ONE, TWO, MINOR], 1) == ([ONE, MINOR], [TWO])
    assert Budget(enough - 0.1, ROOFLINE).affordable([ONE, TWO, MINOR], 1) == ([ONE], [TWO, MINOR])
    assert Budget(enough + 0.1, ROOFLINE).affordable([ONE, MINOR], 3) == ([], [ONE, MINOR]), "three starts each"
    assert Budget(1e9, ROOFLINE).affordable([ONE, TWO, MINOR], 5) == ([ONE, TWO, MINOR], [])
    assert Budget(1.0, ROOFLINE).affordable([], 1) == ([], [])


@pytest.mark.parametrize(("starts", "base_last"), [(1, False), (3, True)])
def test_what_is_chosen_fits_by_the_estimate_of_the_dry_run(starts: int, base_last: bool) -> None:
    every = [ONE, TWO, MINOR, replace(TWO, curve="weak", load=8), replace(ONE, load=16), replace(TWO, load=16)]
    most_s = estimate(every, starts, ROOFLINE, base_last).seconds
    chosen: set[int] = set()
    for share in range(1, 101):
        seconds = share / 100 * most_s
        kept, _ = Budget(seconds, ROOFLINE).affordable(every, starts, base_last)
        chosen.add(len(kept))
        assert not kept or estimate(kept, starts, ROOFLINE, base_last).seconds <= seconds
    assert len(chosen) > 3, "small caps and large ones choose differently"


def test_time_is_kept_back_for_what_is_worth_more_on_an_engine_that_comes_later() -> None:
    clock = Clock()
    needed = OVERHEAD_S + START_S + CASE_S + TWO_START_S + TWO_S
    for spare_s, affordable in ((MINOR_S + 0.1, True), (MINOR_S - 0.1, False)):
        budget = begun(needed + spare_s, [ONE, TWO, MINOR], clock)
        assert budget.affords((0, ONE), None)
        clock.now_s += START_S
        budget.started(ONE.configuration)
        clock.now_s += CASE_S
        budget.ended((0, ONE), measured=True)
        assert budget.affords((0, MINOR), (0, ONE)) is affordable


def test_a_machine_that_is_half_as_fast_gets_half_as_far() -> None:
    clock = Clock()
    budget = begun(OVERHEAD_S + START_S + CASE_S + MINOR_S + 60, [ONE, MINOR], clock)
    clock.now_s += 2 * START_S
    budget.started(ONE.configuration)
    clock.now_s += 2 * CASE_S
    budget.ended((0, ONE), measured=True)
    spent_s = 2 * (START_S + CASE_S)
    assert budget.affords((0, MINOR), (0, ONE)) is (OVERHEAD_S + spent_s + 2 * MINOR_S <= budget.seconds)
    clock.now_s += 60
    assert not budget.affords((0, MINOR), (0, ONE))


def test_nothing_is_kept_back_for_an_engine_that_does_not_start_or_a_case_left_out() -> None:
    clock = Clock()
    budget = begun(OVERHEAD_S + ONCE_S + START_S + CASE_S + MINOR_S + 0.1, [TWO, ONE, MINOR], clock)
    assert not budget.affords((0, ONE), None)
    budget.broken(TWO.configuration)
    assert budget.affords((0, ONE), None)
    other = begun(OVERHEAD_S + ONCE_S + START_S + MINOR_S + 0.1, [ONE, MINOR], clock)
    assert not other.affords((0, MINOR), None)
    other.ended((0, ONE), measured=False)
    assert other.affords((0, MINOR), None)


def test_what_is_left_out_says_why_and_what_helps() -> None:
    spent = Budget(90.0, ROOFLINE).spent
    assert spent.kind == "budget" and "1.5 minutes" in spent.message and "--max-minutes" in spent.remedy
    with pytest.raises(KeyError):
        Budget(90.0, ROOFLINE).affords((0, ONE), None)  # it was never begun
