"""The exercise fails with hints while it is empty, passes with its answer, and finds the usual mistakes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

EXERCISES = Path(__file__).resolve().parents[2] / "week5" / "exercises"
EMPTY, ANSWER = EXERCISES / "tp_by_hand.py", EXERCISES / "answers" / "tp_by_hand_answer.py"
TESTS = ("1_columns_of", "2_column_parallel", "3_rows_of", "4_row_parallel", "5_mlp", "6_counting")
MISTAKES = """
def columns_of(weight, link):
    return weight.chunk(2, dim=1)[0]
def column_parallel(x, my_columns, link):
    return link.all_reduce(x @ my_columns)
def rows_of(weight, link):
    return weight.chunk(2, dim=0)[link.rang]
def row_parallel(my_x, my_rows, link):
    return my_x @ my_rows
def mlp(x, up, down, link):
    return (x @ up).relu() @ down
def all_reduces_per_forward(layers):
    return 2 * layers
"""
SAID = {
    "1_columns_of": "columns_of on rank 1: half of the columns",
    "2_column_parallel": "this rank's columns of x @ weight",
    "3_rows_of": "AttributeError (mistakes.py, line 7)",
    "4_row_parallel": "what of the other's?",
    "5_mlp": "each rank did all the work",
    "6_counting": "the embedding adds one",
}
BETWEEN = """
def mlp(x, up, down, link):
    half = up.shape[1] // 2
    hidden = link.all_reduce(x[:, link.rank * 2 : link.rank * 2 + 2] @ up[link.rank * 2 : link.rank * 2 + 2]).relu()
    mine = slice(link.rank * half, (link.rank + 1) * half)
    return link.all_reduce(hidden[:, mine] @ down[mine])
"""
ALONE = """
def row_parallel(my_x, my_rows, link):
    part = my_x @ my_rows
    return link.all_reduce(part) if link.rank == 0 else part
"""
Verdict = Callable[[Path, str], str]


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    """The learner's tests, as a module."""
    pytest.importorskip("torch", reason="the exercise needs torch, which comes with the engine")
    spec = importlib.util.spec_from_file_location("exercise_tests", EXERCISES / "test_tp_by_hand.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def two_ranks(checks: ModuleType) -> Iterator[Any]:
    with checks.TwoRanks(EMPTY, patience_s=3.0) as ranks:
        yield ranks


@pytest.fixture
def verdict(checks: ModuleType, two_ranks: Any, monkeypatch: pytest.MonkeyPatch) -> Verdict:  # noqa: ANN401
    """What one of the learner's tests says of a file; empty where it passes."""

    def judge(exercise: Path, name: str) -> str:
        monkeypatch.setattr(checks, "EXERCISE", exercise)
        two_ranks.exercise = exercise
        test = getattr(checks, f"test_{name}")
        try:
            test() if name == "6_counting" else test(two_ranks)
        except pytest.fail.Exception as failure:
            return str(failure)
        return ""

    return judge


@pytest.mark.parametrize("name", TESTS)
def test_the_answer_passes(verdict: Verdict, name: str) -> None:
    assert verdict(ANSWER, name) == ""


@pytest.mark.parametrize("name", TESTS)
def test_the_empty_exercise_gives_a_hint(verdict: Verdict, name: str) -> None:
    assert verdict(EMPTY, name).startswith("not filled in yet. Hint: ")


def test_the_usual_mistakes_are_named(verdict: Verdict, tmp_path: Path) -> None:
    mistakes = tmp_path / "mistakes.py"
    mistakes.write_text(MISTAKES)
    for name, said in SAID.items():
        assert said in verdict(mistakes, name), name


def test_an_all_reduce_too_many_is_named(verdict: Verdict, tmp_path: Path) -> None:
    exercise = tmp_path / "between.py"
    exercise.write_text(BETWEEN)
    assert verdict(exercise, "5_mlp") == "mlp: 2 all-reduces; between columns and rows nothing has to be sent"


def test_ranks_that_miss_each_other_are_told_so(verdict: Verdict, tmp_path: Path) -> None:
    exercise = tmp_path / "alone.py"
    exercise.write_text(ALONE)
    assert "waited for an all-reduce that the other did not make" in verdict(exercise, "4_row_parallel")


def test_the_command_in_the_docstring(checks: ModuleType) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "week5/exercises", "-k", "6_counting"]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=EXERCISES.parents[1], timeout=120)
    assert outcome.returncode == 1
    assert "not filled in yet. Hint: all_reduces_per_forward: count them" in outcome.stdout
    assert "Traceback" not in outcome.stdout
    assert "python -m pytest week5/exercises" in EMPTY.read_text()
