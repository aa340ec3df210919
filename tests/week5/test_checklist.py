"""week5/checklist.py as a learner runs it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.analysis.learning.self_test import self_test
from common.store.files import save
from common.store.schema import Check
from tests.analysis.planted import TP1, TP2, case, full, result

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "checklist.py"


@dataclass(frozen=True)
class Outcome:
    """What a run of the script said."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("week5_checklist", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["week5_checklist"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The script in this process, without a terminal, on a machine of two devices that nobody rented."""
    monkeypatch.setattr(script, "devices_here", lambda: 2)
    monkeypatch.setattr(script, "RENTED", ())

    def once(results: Path, *words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--results-dir", str(results), *words])
        capsys.readouterr()
        try:
            code = script.main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return once


def states(run: Run, results: Path) -> dict[str, str]:
    document: dict[str, Any] = json.loads(run(results, "--json").stdout)
    assert document["of"] == len(document["items"]) == 9
    return {item["name"]: item["state"] for item in document["items"]}


def test_from_all_open_to_all_done(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    first = run(results)
    assert first.returncode == 1
    assert "0 done, 8 not yet, 1 not possible here" in first.stdout
    assert first.stderr.startswith(f"note: {results} does not exist")
    assert max(map(len, first.stdout.split("0 done")[0].splitlines())) <= 80
    passed = case(TP2, "verification", 1, [10.0])
    passed.checks = [Check("weights are split", True, "50 %")]
    ladder = [case(TP1, "fixed", streams, [10.0 * streams]) for streams in (1, 4, 16)]
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
    assert set(states(run, results).values()) == {"done", "not possible here"}
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
def test_what_cannot_be_done_is_one_line(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    outcome = run(tmp_path, *words)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(said)
    assert len(outcome.stderr.splitlines()) == 1
    assert outcome.stdout == ""


@pytest.mark.slow
def test_as_a_command_it_counts_the_devices_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--results-dir", str(tmp_path), "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)
    assert outcome.returncode == 1, outcome.stderr
    found = {item["name"]: item["state"] for item in json.loads(outcome.stdout)["items"]}
    assert found["concurrency"] == "not yet"
    assert found["scaling"] in ("not yet", "not possible here")


def test_help_is_the_protocol(run: Run, tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout
    assert "Question." in text
    assert "not possible here" in text
