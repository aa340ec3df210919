"""The evening as a user runs it, at its smallest: real vLLM, one engine for several parts, and a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.store import files

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "run_distributed_benchmark.py"
SMALLEST = ("--model", "qwen2-9m", "--tp", "1", "--parts", "latency", "verification", "concurrency", "--repeats", "2")


def test_one_engine_serves_all_parts_and_a_report_is_written(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *SMALLEST, "--usd-per-hour", "1", "--results-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("engine up after") == 1
    last = json.loads(done.stdout.splitlines()[-1])
    path = Path(last["result"])
    result = files.load(path)
    assert result.status == "complete"
    measured = {case.id for case in result.cases if case.repeats}
    assert {"tp1/latency-128-32/c1", "tp1/verify/served", "tp1/closed/c1"} <= measured
    assert last["summary"]["tensor_parallel"] == {"tp1": "PASS"}
    report = path.with_name(f"{path.stem}.report")
    text = (report / "report.md").read_text()
    assert "## Many clients" in text and "## One request at a time" in text and "each within the limits" in text
    assert "data:image/png;base64," in (report / "report.html").read_text()
    assert str(tmp_path) not in text
