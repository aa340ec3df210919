"""The evening as a user runs it, at its smallest: real vLLM, one engine for several parts, and a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.store import files
from tests.experiment.script import Script
from tests.shared_engines import ENGINE_ARGS

pytestmark = pytest.mark.vllm

SMALLEST = ("--model", "qwen2-9m", "--tp", "1", "--parts", "latency", "verification", "--repeats", "2")


def test_one_engine_serves_all_parts(real_script: Callable[[str], Script], tmp_path: Path) -> None:
    """And a report is written."""
    words = ("--usd-per-hour", "1", "--results-dir", str(tmp_path))
    done = real_script("run_distributed_benchmark")(*SMALLEST, *words, *ENGINE_ARGS)
    assert done.code == 0, done.err
    assert done.err.count("engine up, ") == 1
    last = done.last
    path = Path(last["result"])
    result = files.load(path)
    assert result.status == "complete"
    measured = {case.id for case in result.cases if case.repeats}
    assert {"tp1/latency-128-32/c1", "tp1/verify/served"} <= measured
    assert last["summary"]["tensor_parallel"] == {"tp1": "PASS"}
    report = path.with_name(f"{path.stem}.report")
    text = (report / "report.md").read_text()
    assert "## One request at a time" in text and "## The plans side by side" in text
    assert "One request at a time" in (report / "report.html").read_text()
    assert str(tmp_path) not in text
