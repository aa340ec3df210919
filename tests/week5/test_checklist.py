"""week5/checklist.py as a learner runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.analysis.self_test import self_test
from common.store.files import save
from common.store.schema import Check
from tests.analysis.planted import TP1, TP2, case, full, result

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "checklist.py"


def run(results: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--results-dir", str(results), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/", timeout=120)


def states(results: Path) -> dict[str, str]:
    document: dict[str, Any] = json.loads(run(results, "--json").stdout)
    assert document["of"] == len(document["items"]) == 9
    return {item["name"]: item["state"] for item in document["items"]}


def test_from_all_open_to_all_done(tmp_path: Path) -> None:
    results = tmp_path / "results"
    first = run(results)
    assert first.returncode == 1
    assert "0 done, 8 not yet, 1 not possible here" in first.stdout
    assert max(map(len, first.stdout.split("0 done")[0].splitlines())) <= 80
    passed = case(TP2, "verification", 1, [10.0])
    passed.checks = [Check("weights are split", True, "50 %")]
    ladder = [case(TP1, "fixed", streams, [10.0 * streams]) for streams in (1, 4)]
    for read in (
        full(),
        result([passed], experiment="test_tensor_parallel"),
        result(ladder, experiment="simulate_concurrent_requests"),
    ):
        folder = results / read.experiment
        folder.mkdir(parents=True)
        save(read, folder / f"{read.run_id}.json")
    questions = run(results, "--answers")
    assert "a. At 16 streams tp1" in questions.stderr
    assert "answer with --answers a=... b=..." in questions.stderr
    words = [f"{quiz.key}={quiz.right:.3f}" for quiz in self_test(full())]
    wrong = run(results, "--answers", "a=12", *words[1:])
    assert "a: 12 % is not it" in wrong.stderr
    assert wrong.returncode == 1
    last = run(results, "--answers", words[0], "--write-configuration")
    assert last.returncode == 0, last.stdout
    assert "8 done, 0 not yet" in last.stdout
    assert set(states(results).values()) == {"done", "not possible here"}
    (results / "benchmark_scaling" / f"{full().run_id}.json").write_text("{")
    spoilt = run(results)
    assert spoilt.returncode == 1
    assert f"{full().run_id}.json is truncated" in spoilt.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--answers", "a=1"), "error: the self-test asks about a scaling result of yours"),
        (("--write-configuration",), "error: no complete result compares plans yet"),
        (("--no-such-thing",), "error: unknown option --no-such-thing"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    outcome = run(tmp_path, *words)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(said)
    assert len(outcome.stderr.splitlines()) == 1
    assert outcome.stdout == ""


def test_help_is_the_protocol() -> None:
    text = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, timeout=60).stdout
    assert "Question." in text
    assert "not possible here" in text
