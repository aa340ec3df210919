"""The comparison of plans as a user runs it: real vLLM, at its smallest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.store import files
from tests.experiment.script import Script
from tests.shared_engines import ENGINE_ARGS

pytestmark = pytest.mark.vllm


def test_the_script_at_its_smallest(real_script: Callable[[str], Script], tmp_path: Path) -> None:
    """An uneven pipeline and experts on two devices, each beside its own base."""
    small = ["--model", "qwen2-9m", "--plans", "tp1", "pp5+3", "tp2ep", "--concurrency", "2", "--repeats", "2"]
    small += ["--input-tokens", "16", "--output-tokens", "4", "--goal", "memory", "--results-dir", str(tmp_path)]
    said = real_script("compare_parallel_plans")(*small, *ENGINE_ARGS)
    assert said.code == 0, said.err
    last = said.last
    assert last["status"] == "complete"
    assert last["summary"]["recommended"]["memory"] == "pp5+3"
    assert "Pareto front" in said.out and "experts 4-7" in said.out
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
