"""The comparison of plans as a user runs it: real vLLM, at its smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.store import files

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "compare_parallel_plans.py"


def test_the_script_at_its_smallest(tmp_path: Path) -> None:
    """An uneven pipeline and experts on two devices, each beside its own base: four starts."""
    small = ["--model", "qwen2-9m", "--plans", "tp1", "pp5+3", "tp2ep", "--concurrency", "2", "--repeats", "2"]
    small += ["--input-tokens", "16", "--output-tokens", "8", "--goal", "memory", "--results-dir", str(tmp_path)]
    said = subprocess.run(
        [sys.executable, str(SCRIPT), *small], capture_output=True, text=True, check=False, cwd="/", timeout=400
    )
    assert said.returncode == 0, said.stderr
    last = json.loads(said.stdout.splitlines()[-1])
    assert last["status"] == "complete"
    assert last["summary"]["recommended"]["memory"] == "pp5+3"
    assert "Pareto front" in said.stdout and "experts 4-7" in said.stdout
    cases = {case.id: case for case in files.load(Path(last["result"])).cases}
    assert {case.status for case in cases.values()} == {"ok"}
    assert cases["pp5+3/fixed/c2"].engine["layers_per_rank"] == [[0, 5], [5, 8]]
    experts = cases["qwen3-moe-16m/tp2ep/fixed/c2"]
    assert experts.engine["experts_per_rank"] == [4, 4]
    assert experts.model == "qwen3-moe-16m"
    for case in cases.values():
        for repeat in case.repeats:
            assert repeat["failed"] == 0
            assert repeat["server_output_tokens"] == repeat["total_output_tokens"]
