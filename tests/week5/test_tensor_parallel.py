"""The verification with real vLLM: it passes what is split, fails what only claims to be, and runs as a script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
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
from common.store import files
from common.store.schema import Case
from tests.experiment.script import Script
from tests.shared_engines import ENGINE_ARGS, SharedEngines

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "test_tensor_parallel.py"
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


@pytest.mark.vllm
def test_a_real_split_passes(tp1: Engine, tp2: Engine, tmp_path: Path) -> None:
    base, split = verified(tp1, TP1, tmp_path), verified(tp2, TP2, tmp_path)
    assert verdict_of(base) == verdict_of(split) == Finding("PASS"), (base.checks, split.checks)
    assert split.repeats[0]["identical_to_base"] == 3
    assert split.repeats[0]["noise_to_base_nats"] < 0.01
    assert split.repeats[0]["distinct_tokens_of_base"] > 8, "one repeated token would prove nothing"


@pytest.mark.vllm
def test_two_replicas_that_claim_to_be_tp2_fail(tp1: Engine, engines: SharedEngines, tmp_path: Path) -> None:
    """Two whole engines, one per device: right answers and full devices, but nothing is split."""
    verified(tp1, TP1, tmp_path)
    case = verified(engines.of("tp1x2"), TP2, tmp_path)
    assert passed(case) == {INFERENCE: True, LIKE_BASE: True, WEIGHTS: False}
    finding = verdict_of(case)
    assert finding.word == "FAIL"
    assert "100% of the weights on one device, not 50%: the whole model stands on every device" in finding.reason


@pytest.mark.vllm
def test_the_script_at_its_smallest(real_script: Callable[[str], Script], tmp_path: Path) -> None:
    small = ["--model", "qwen2-9m", "--prompts", "2", "--input-tokens", "16", "--output-tokens", "8", "--no-offline"]
    said = real_script("test_tensor_parallel")(*small, "--results-dir", str(tmp_path), *ENGINE_ARGS)
    assert said.code == 0, said.err
    last = said.last
    assert {plan: found["verdict"] for plan, found in last["summary"].items()} == {
        "tp1": "PASS",
        "tp2": "PASS",
        "tp4": "NOT TESTED",
    }
    assert last["status"] == "complete"
    result = files.load(Path(last["result"]))
    assert {case.id: case.status for case in result.cases} == {
        "tp1/verify/served": "ok",
        "tp2/verify/served": "ok",
        "tp4/verify/served": "skipped",
    }


@pytest.mark.slow
def test_pytest_leaves_the_scripts_alone() -> None:
    """They are called test_ because they test a machine; collected, they would be imported and never run."""
    root = SCRIPT.parents[1]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "week5", "--ignore", "week5/exercises"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=60)
    assert said.returncode == 5, said.stdout  # no tests were collected
    assert "test_tensor_parallel" not in said.stdout
