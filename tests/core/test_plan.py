from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.plan import ParallelPlan

SIZES = st.integers(min_value=1, max_value=64)
FEW = st.integers(min_value=1, max_value=4)
EVEN = st.builds(ParallelPlan, tp=SIZES, pp=SIZES, dp=SIZES, ep=st.booleans(), replicas=SIZES)
STAGES = st.lists(SIZES, min_size=2, max_size=5).map(tuple)
UNEVEN = st.builds(lambda plan, layers: replace(plan, pp=len(layers), stage_layers=layers), EVEN, STAGES)
PLANS = EVEN | UNEVEN


@given(PLANS)
def test_the_written_form_reads_back(plan: ParallelPlan) -> None:
    assert ParallelPlan.parse(str(plan)) == plan


@settings(max_examples=30)
@given(st.builds(ParallelPlan, tp=FEW, pp=FEW, dp=FEW, replicas=FEW))
def test_devices_are_ranks_times_replicas(plan: ParallelPlan) -> None:
    ranks = list(product(range(plan.tp), range(plan.pp), range(plan.dp), range(plan.replicas)))
    assert plan.devices == len(ranks)
    assert plan.devices_per_replica == len({rank[:3] for rank in ranks})


@given(PLANS, PLANS)
def test_two_plans_are_never_written_alike(one: ParallelPlan, other: ParallelPlan) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "plan", "written", "devices"),
    [
        ("tp2", ParallelPlan(tp=2), "tp2", 2),
        ("tp2pp2", ParallelPlan(tp=2, pp=2), "tp2pp2", 4),
        ("tp1dp2", ParallelPlan(dp=2), "tp1dp2", 2),
        ("tp1x2", ParallelPlan(replicas=2), "tp1x2", 2),
        ("tp4ep", ParallelPlan(tp=4, ep=True), "tp4ep", 4),
        ("pp2", ParallelPlan(pp=2), "pp2", 2),
        ("tp1pp2", ParallelPlan(pp=2), "pp2", 2),
        ("x3", ParallelPlan(replicas=3), "tp1x3", 3),
        ("pp5+3", ParallelPlan(pp=2, stage_layers=(5, 3)), "pp5+3", 2),
        ("tp2pp3+3+2x2", ParallelPlan(2, 3, 1, False, 2, (3, 3, 2)), "tp2pp3+3+2x2", 12),
        (" TP2PP3DP5EPX7 ", ParallelPlan(2, 3, 5, True, 7), "tp2pp3dp5epx7", 210),
    ],
)
def test_the_forms_of_the_design(text: str, plan: ParallelPlan, written: str, devices: int) -> None:
    assert ParallelPlan.parse(text) == plan
    assert str(plan) == written
    assert plan.devices == devices


@pytest.mark.parametrize(
    "text", ["", "  ", "2", "tp", "tp-1", "tp1.5", "pp2tp2", "tp2 pp2", "tp2x", "xtp2", "tp2,tp4", "pp5+", "pp+3"]
)
def test_what_is_no_plan_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="not a plan; write tp2"):
        ParallelPlan.parse(text)


@pytest.mark.parametrize("text", ["tp0", "tp2pp0", "tp1dp0", "tp1x0"])
def test_a_size_of_zero_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be 1 or more, not 0"):
        ParallelPlan.parse(text)


def test_stages_without_layers_or_of_another_number_are_refused() -> None:
    for layers, pp in (((5, 0), 2), ((8,), 1)):
        with pytest.raises(ValueError, match="two stages or more, each of 1 layer or more"):
            ParallelPlan(pp=pp, stage_layers=layers)
    with pytest.raises(ValueError, match="2 numbers of layers were given for 3 pipeline stages"):
        ParallelPlan(pp=3, stage_layers=(4, 4))


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="replicas must be 1 or more, not -2"):
        ParallelPlan(replicas=-2)
