"""The verification as a user runs it: real vLLM, at its smallest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.store import files
from tests.experiment.script import Script
from tests.shared_engines import ENGINE_ARGS

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "test_tensor_parallel.py"


@pytest.mark.vllm
def test_the_script_at_its_smallest(real_script: Callable[[str], Script], tmp_path: Path) -> None:
    small = ["--model", "qwen2-9m", "--prompts", "2", "--input-tokens", "16", "--output-tokens", "8", "--no-offline"]
    small += ["--dtype", "auto"]  # of the shared engines, float32
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
