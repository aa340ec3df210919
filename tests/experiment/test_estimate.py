"""The estimate's direction and arithmetic; how near it comes to the truth only a real run shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.core.arrivals import OpenLoop, Replay
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.recording import RecordedRequest, Recording
from common.engines.models import Model
from common.engines.reference_models import REFERENCE_MODELS
from common.experiment.estimate import Estimate, estimate
from common.experiment.load_spec import BETWEEN_REPEATS_S, Lengths, LoadSpec, Saturate
from common.experiment.roofline import Roofline

SHAPE = ModelShape.from_config(REFERENCE_MODELS["qwen2-126m"].config())
ROOFLINE = Roofline(SHAPE, "cpu")
SPEC = LoadSpec(ParallelPlan(), "fixed", 4, Lengths(64, 32, 10_240), turns=3, repeats=3)


def seconds(**changed: object) -> float:
    return replace(SPEC, **changed).seconds(ROOFLINE)  # type: ignore[arg-type]


def test_more_work_takes_longer() -> None:
    assert seconds(turns=6) > 1.7 * seconds()
    assert seconds(repeats=6) > 1.7 * seconds()
    assert seconds(load=64) > seconds(load=16) > seconds(load=1)
    assert seconds(lengths=Lengths(64, 64, 10_240)) > 1.5 * seconds()
    assert seconds(load=Saturate(16, 64)) > seconds(load=64, turns=2)


def test_requests_by_the_clock_take_as_long_as_their_schedule() -> None:
    assert 199 / 2 * 3.3 < seconds(load=OpenLoop(2.0), turns=200) < 205 / 2 * 3.3


def test_more_devices_take_no_longer() -> None:
    assert seconds(plan=ParallelPlan(tp=2)) < seconds()
    assert seconds(plan=ParallelPlan(replicas=2)) <= seconds()


def replayed(gap_s: float, tokens: int = 32, time_scale: float = 1.0) -> float:
    entries = tuple(RecordedRequest(64, tokens, at_s=place * gap_s) for place in range(20))
    recording = Recording("trace", "", entries, 10_240)
    return seconds(load=Replay(time_scale), turns=20, recording=recording, lengths=Lengths(64, tokens, 10_240))


def test_a_replay_takes_as_long_as_its_trace_or_as_its_work() -> None:
    slow = replayed(gap_s=10.0)
    assert 190 * 3.3 < slow < 200 * 3.3, "19 gaps of 10 s and the last answer, three repeats and warm-up"
    assert 380 * 3.3 < replayed(gap_s=10.0, time_scale=2.0) < 390 * 3.3
    measuring_s = seconds(load=16, turns=1) - 3 * BETWEEN_REPEATS_S
    assert replayed(gap_s=0.0) == pytest.approx(measuring_s * 20 / 16)
    assert replayed(gap_s=0.0, tokens=320) > 4 * replayed(gap_s=0.0)


def test_cases_and_starts_add_up() -> None:
    one, other = SPEC, replace(SPEC, plan=ParallelPlan(tp=2))
    single = estimate([one], 1, ROOFLINE)
    assert (single.cases, single.engine_starts) == (1, 1)
    assert estimate([one, replace(one, load=8)], 1, ROOFLINE).engine_starts == 1, "cases of a plan share a start"
    assert estimate([one, other], 1, ROOFLINE).engine_starts == 2
    assert estimate([one], 3, ROOFLINE).seconds > 2.5 * single.seconds - 20


def test_a_pipeline_serves_a_lone_stream_no_faster() -> None:
    pp2, tp2 = ParallelPlan(pp=2), ParallelPlan(tp=2)
    assert seconds(load=1, plan=pp2) > seconds(load=1) > seconds(load=1, plan=tp2)
    assert seconds(load=64, plan=pp2) < seconds(load=64)


def test_replicas_take_longer_to_start_than_ranks() -> None:
    plans = [ParallelPlan(), ParallelPlan(tp=2), ParallelPlan(tp=4), ParallelPlan(replicas=2)]
    alone_s, split_s, wide_s, replicas_s = (ROOFLINE.start_s(plan) for plan in plans)
    assert alone_s < split_s < wide_s < replicas_s
    assert ROOFLINE.once_s > alone_s, "most of a run's first start are imports"


def test_the_estimate_of_a_run_that_was_timed() -> None:
    """All plans of two cores, smoke, seven starts from importers that stay: 309 s."""
    plans = [ParallelPlan.parse(text) for text in ("tp1", "pp2", "tp2", "tp1dp2", "tp1x2")]
    lengths = Lengths(32, 32, SHAPE.vocab_size)
    moe = Model("qwen3-moe-16m", Path(), ModelShape.from_config(REFERENCE_MODELS["qwen3-moe-16m"].config()))
    both = [(plan, None) for plan in plans] + [(ParallelPlan.parse(text), moe) for text in ("tp1", "tp2ep")]
    specs = [
        LoadSpec(plan, curve, load, lengths, max(2, 4 // load), 3, model=model)
        for plan, model in both
        for curve, load in (("fixed", 1), ("fixed", 16), ("weak", 4 * plan.devices))
    ]
    planned = estimate(specs, 1, ROOFLINE)
    assert (planned.cases, planned.engine_starts) == (21, 7)
    assert planned.seconds == pytest.approx(309, rel=0.15)


def test_dollars_by_hand() -> None:
    assert Estimate(1, 1, 1_800.0).usd(12.4) == pytest.approx(6.2)
    assert Estimate(1, 1, 1_800.0).usd(None) is None
