"""The estimate's direction and arithmetic; how near it comes to the truth only a real run shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines.reference_models import REFERENCE_MODELS
from common.experiment.cases import CaseSpec, Lengths, Saturate
from common.experiment.estimate import Estimate, case_seconds, estimate

SHAPE = ModelShape.from_config(REFERENCE_MODELS["qwen2-126m"].config())
SPEC = CaseSpec(ParallelPlan(), "fixed", 4, Lengths(64, 32, 10_240), turns=3, repeats=3)


def seconds(**changed: object) -> float:
    return case_seconds(replace(SPEC, **changed), SHAPE, "cpu")  # type: ignore[arg-type]


def test_more_work_takes_longer() -> None:
    assert seconds(turns=6) > 1.9 * seconds()
    assert seconds(repeats=6) > 1.7 * seconds()
    assert seconds(load=64) > seconds(load=16) > seconds(load=1)
    assert seconds(lengths=Lengths(64, 64, 10_240)) > 1.5 * seconds()
    assert seconds(load=Saturate(16, 64)) > seconds(load=64, turns=2)


def test_more_devices_take_no_longer() -> None:
    assert seconds(plan=ParallelPlan(tp=2)) < seconds()
    assert seconds(plan=ParallelPlan(replicas=2)) <= seconds()


def test_cases_and_starts_add_up() -> None:
    one, other = SPEC, replace(SPEC, plan=ParallelPlan(tp=2))
    single = estimate([one], 1, SHAPE, "cpu")
    assert (single.cases, single.engine_starts) == (1, 1)
    assert estimate([one, replace(one, load=8)], 1, SHAPE, "cpu").engine_starts == 1, "cases of a plan share a start"
    assert estimate([one, other], 1, SHAPE, "cpu").engine_starts == 2
    assert estimate([one], 3, SHAPE, "cpu").seconds > 2.5 * single.seconds - 20


def test_dollars_by_hand() -> None:
    assert Estimate(1, 1, 1_800.0).usd(12.4) == pytest.approx(6.2)
    assert Estimate(1, 1, 1_800.0).usd(None) is None
