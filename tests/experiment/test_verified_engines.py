"""The verification on real engines: it passes what is split, and fails what only claims to be."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from common.analysis.verification.judgement import INFERENCE, LIKE_BASE, WEIGHTS, Finding, verdict_of
from common.core.plan import ParallelPlan
from common.engines.engine import Engine
from common.engines.models import find_model
from common.experiment.bench import Bench
from common.experiment.load_spec import Lengths
from common.experiment.verify_spec import VerifySpec
from common.machine.devices import find_machine
from common.machine.monitor import Monitor
from common.store.schema import Case
from tests.shared_engines import SharedEngines

pytestmark = pytest.mark.vllm

TP1, TP2 = ParallelPlan(), ParallelPlan(tp=2)
SHAPE = find_model("qwen2-9m", say=lambda _: None).shape


def verified(engine: Engine, claimed: ParallelPlan, folder: Path) -> Case:
    """The served case of a plan, whatever plan the engine really runs."""
    spec = VerifySpec(claimed, TP1, False, SHAPE, Lengths(16, 16, SHAPE.vocab_size), prompts=3)
    case = spec.unmeasured()
    case.engine = asdict(engine.facts)
    with Monitor(find_machine()) as monitor:
        spec.measure(Bench(engine, 0, 0, folder, monitor, lambda _: None), case, [])
    return case


def passed(case: Case) -> dict[str, bool | None]:
    return {check.name: check.passed for check in case.checks}


def test_a_real_split_passes(tp1: Engine, tp2: Engine, tmp_path: Path) -> None:
    base, split = verified(tp1, TP1, tmp_path), verified(tp2, TP2, tmp_path)
    assert verdict_of(base) == verdict_of(split) == Finding("PASS"), (base.checks, split.checks)
    assert split.repeats[0]["identical_to_base"] == 3
    assert split.repeats[0]["noise_to_base_nats"] < 0.01
    assert split.repeats[0]["distinct_tokens_of_base"] > 8, "one repeated token would prove nothing"


def test_two_replicas_that_claim_to_be_tp2_fail(tp1: Engine, engines: SharedEngines, tmp_path: Path) -> None:
    """Two whole engines, one per device: right answers and full devices, but nothing is split."""
    verified(tp1, TP1, tmp_path)
    case = verified(engines.of("tp1x2"), TP2, tmp_path)
    assert passed(case) == {INFERENCE: True, LIKE_BASE: True, WEIGHTS: False}
    finding = verdict_of(case)
    assert finding.word == "FAIL"
    assert "100% of the weights on one device, not 50%: the whole model stands on every device" in finding.reason
