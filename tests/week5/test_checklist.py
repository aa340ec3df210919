"""week5/checklist.py as a learner runs it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.analysis.decision import page
from common.analysis.frames import latest_reference, load_sound
from common.analysis.learning import checklist
from common.analysis.learning.self_test import self_test
from common.store.files import save
from common.store.schema import Check
from tests.analysis import planted_concurrency
from tests.analysis.mixed_results import on_and_off
from tests.analysis.planted import TP1, TP2, case, full, result
from tests.experiment.script import Script, load_script

DECIDE = checklist.DECIDE.split()[2:]
STEM = "20260102T030406Z-2x1core-synthetic-qwen2-9m"
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
    assert document["of"] == len(document["items"]) == 13
    return {item["name"]: item["state"] for item in document["items"]}


def test_from_all_open_to_all_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    first = run(results)
    assert first.returncode == 1
    assert "0 done, 12 not yet, 1 not possible here" in first.stdout
    assert first.stderr.startswith(f"note: {results} does not exist")
    assert max(map(len, first.stdout.split("0 done")[0].splitlines())) <= 80
    measure(results)
    questions = run(results, "--answers")
    assert "a. At 16 streams tp1" in questions.stderr
    assert "answer with --answers a=... b=..." in questions.stderr
    words = [f"{quiz.key}={quiz.right:.3f}" for quiz in self_test(full())]
    wrong = run(results, "--answers", "a=12", *words[1:])
    assert "a: 12 % is not it" in wrong.stderr
    assert wrong.returncode == 1
    undecided = run(results, "--answers", words[0], "--write-configuration")
    assert "11 done, 1 not yet" in undecided.stdout
    monkeypatch.setattr(page, "drawings", lambda decision: {})  # a second each, and tested with the decision
    decided = Script(load_script("decide"), monkeypatch, capsys)(*DECIDE, "--results-dir", str(results))
    assert decided.code == 0, decided.err
    last = run(results)
    assert last.returncode == 0, last.stdout
    assert "12 done, 0 not yet" in last.stdout
    assert set(states(run, results).values()) == {"done", "not possible here"}
    (results / "benchmark_scaling" / f"{full().run_id}.json").write_text("{")
    spoilt = run(results)
    assert spoilt.returncode == 1
    assert spoilt.stdout.count(full().run_id) == 1, "named once"
    assert f"not counted: benchmark_scaling: {full().run_id}.json is truncated" in spoilt.stdout


def measure(results: Path) -> None:
    """One result of every experiment."""
    passed = case(TP2, "verification", 1, [10.0])
    passed.checks = [Check("weights are split", True, "50 %")]
    loads = planted_concurrency.result([planted_concurrency.closed(TP1, clients) for clients in (1, 4, 16)])
    for read in (
        full(),
        result([passed], experiment="test_tensor_parallel"),
        loads,
        on_and_off(),
        load_sound(latest_reference("explain_loss")),
        replace(full(), experiment="compare_parallel_plans"),
    ):
        folder = results / read.experiment
        folder.mkdir(parents=True)
        mine = replace(read, run_id=full().run_id if read.experiment == "benchmark_scaling" else f"{STEM}-mine")
        save(mine, folder / f"{mine.run_id}.json")


def test_good_answers_are_kept_beside_those_that_are_refused(run: Run, tmp_path: Path) -> None:
    measure(tmp_path)
    some = run(tmp_path, "--answers", "a=78", "e=$2.14", "z=3")
    assert some.returncode == 2
    assert "error: --answers z=3: write key=number" in some.stderr and "the keys are a, b, c, d, e" in some.stderr
    assert "a: right" in some.stderr and "e: right" in some.stderr
    rest = run(tmp_path, "--answers", "b=28.2", "c=1", "d=10.5")
    assert "Efficiency and overhead understood:" not in rest.stdout, "all five are right now"


def test_a_price_is_noted_afterwards_and_nothing_is_measured(run: Run, tmp_path: Path) -> None:
    read = full()
    read.cost = {}
    path = tmp_path / read.experiment / f"{read.run_id}.json"
    path.parent.mkdir(parents=True)
    save(read, path)
    before = path.read_bytes()
    open_ = run(tmp_path).stdout
    assert "Cost noted:\n  python week5/checklist.py --usd-per-hour 0.05\n\n" in open_ + "\n"
    noted = run(tmp_path, "--usd-per-hour", "1.2")
    assert noted.stderr == (
        f"noted for this list alone: $1.20 per hour: $1.67 per million output tokens with tp2 ({read.run_id}.json)\n"
    )
    assert states(run, tmp_path)["cost"] == "done"
    assert path.read_bytes() == before, "a result is never written again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--answers", "a=1"), "error: the self-test asks about a scaling result of yours"),
        (("--write-configuration",), "error: no complete result compares plans yet"),
        (("--usd-per-hour", "1"), "error: no complete result has tokens per second to put a price on"),
        *((("--usd-per-hour", price), f"error: --usd-per-hour {price}: the price") for price in ("0", "-1", "inf")),
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
