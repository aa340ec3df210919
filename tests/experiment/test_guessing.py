"""A guess is asked on a terminal only, kept, and never part of what makes two runs the same work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from common.analysis.learning.questions import Asked
from common.core.stats import Estimate
from common.experiment import guessing
from common.experiment.guessing import check_guess, say_question
from common.store import files
from common.store.schema import Guess, Result
from tests.analysis.planted import TP1, TP2, case, result
from tests.experiment.fakes import World
from tests.experiment.script import Script

FIXED = ("--model", "qwen2-9m", "--curves", "fixed", "--concurrency", "1", "4")
QUESTION = "How many times faster will tp2 be than tp1 at 4 streams?"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_result(results: Path) -> Result:
    (path,) = (results / "benchmark_scaling").glob("*.json")
    return files.load(path)


def test_a_given_guess_is_kept_and_shown_beside_the_measurement(script: Script, world: World, results: Path) -> None:
    world.rate = lambda plan, concurrency: {"tp1": 40.0, "tp2": 56.0}[plan] * concurrency
    outcome = script(*FIXED, "--results-dir", str(results), "--guess", "1.9")
    assert outcome.code == 0
    assert the_result(results).guess == Guess(QUESTION, "x", "tp2/fixed/c4", 1.9)
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    begin = lines.index(f"Your guess {QUESTION}")
    assert lines[begin + 1] == "you guessed 1.9x"
    assert lines[begin + 2].startswith("measured 1.4x [1.4, 1.4")
    assert (
        lines[begin + 3] == "Your guess is 36% above what was measured, outside the interval: what did you leave out?"
    )
    assert outcome.last["status"] == "complete"


def test_nobody_is_asked_where_there_is_no_terminal(script: Script, results: Path) -> None:
    outcome = script(*FIXED, "--results-dir", str(results))
    assert "guess" not in (outcome.out + outcome.err).lower()
    assert the_result(results).guess is None


def test_a_dry_run_asks_nothing(script: Script, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "ask", lambda *_: pytest.fail("asked in a dry run"))
    assert script(*FIXED, "--dry-run", "--results-dir", str(results)).code == 0


def test_an_answer_on_a_terminal_is_kept(script: Script, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(text: str, unit: str) -> float:
        asked.append(f"{text} ({unit})")
        return 1.5

    monkeypatch.setattr(guessing, "ask", answer)
    script(*FIXED, "--results-dir", str(results))
    assert asked == [f"{QUESTION} (x)"]
    guess = the_result(results).guess
    assert guess is not None
    assert guess.value == 1.5


def test_a_guess_is_not_part_of_the_work(script: Script, world: World, results: Path) -> None:
    world.incidents[3] = "interrupt"
    script(*FIXED, "--results-dir", str(results), "--guess", "1.5")
    world.incidents.clear()
    outcome = script(*FIXED, "--results-dir", str(results), "--guess", "9")
    assert "going on with" in outcome.err
    assert "a guess comes before the first number of a run" in outcome.err
    found = the_result(results)
    assert found.guess is not None
    assert found.guess.value == 1.5, "the second was made with numbers in sight"
    assert "guess" not in found.config


def test_no_guess_is_taken_once_something_is_measured(script: Script, world: World, results: Path) -> None:
    world.incidents[6] = "interrupt"  # in the second case: the first has six repeats
    script(*FIXED, "--results-dir", str(results))
    world.incidents.clear()
    script(*FIXED, "--results-dir", str(results), "--guess", "1.4")
    assert the_result(results).guess is None


@pytest.mark.parametrize("words", [("--guess", "0"), ("--guess=-1",), ("--guess", "nan"), ("--guess", "inf")])
def test_what_is_no_guess_is_refused(script: Script, words: tuple[str, ...]) -> None:
    assert "--guess" in script(*FIXED, *words).refusal()


def test_a_guess_without_a_question_is_refused(script: Script, world: World, results: Path) -> None:
    line = script(*FIXED, "--tp", "1", "--results-dir", str(results), "--guess", "2").refusal()
    assert "compare nothing that could be guessed" in line
    assert world.starts == []


@pytest.mark.parametrize(
    ("line", "value"),
    [("1.6", 1.6), (" 1,6 ", 1.6), ("1.6x", 1.6), ("2 X", 2.0), (".5", 0.5), ("3.", 3.0)]
    + [(bad, None) for bad in ("", "0", "-2", "nan", "inf", "1e3", "about 2", "1.2.3", "x", "9" * 400)],
)
def test_a_number_is_read_as_a_person_writes_it(line: str, value: float | None) -> None:
    assert guessing.parse_guess(line, "x") == value


def typed(text: str, patiences_s: tuple[float, ...] = (60.0,), before: str = "") -> str:
    """What `ask` returns, asked once for each patience, to a process whose three streams are a terminal with this."""
    code = (
        f"import os\n{before}\nfrom common.experiment import guessing\n"
        f"for guessing.PATIENCE_S in {patiences_s}:\n"
        "    print('returned', guessing.ask('How many?', 'x'))"
    )
    ours, theirs = pty.openpty()
    try:
        os.write(ours, text.encode())
        with subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs) as process:
            assert process.wait(timeout=60) == 0
        return os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.slow
def test_on_a_real_terminal() -> None:
    said = typed("many\n1.7\n")
    assert "Your guess? How many? (a number, in x; Enter skips" in said
    assert "'many' is no positive number" in said
    assert "returned 1.7" in said


@pytest.mark.slow
def test_enter_skips_and_nobody_is_waited_for_for_ever() -> None:
    assert typed("\n", (60.0, 0.2)).count("returned None") == 2


@pytest.mark.slow
def test_in_the_background_nobody_is_asked() -> None:
    said = typed("1.7\n", before="os.tcgetpgrp = lambda _: 0")
    assert "returned None" in said
    assert "guess" not in said


def test_a_guess_inside_the_interval_is_not_told_from_the_truth() -> None:
    from common.analysis.learning.questions import judgement, prediction

    guess, measured = Guess("?", "x", "c", 1.5), Estimate("speedup", "x", 1.45, 1.4, 1.52, 3)
    assert "lies in the interval" in judgement(guess, measured)
    assert judgement(guess, None).startswith("This run has no answer")
    assert judgement(guess, Estimate("speedup", "x", 3.0)) == "Your guess is 50% below what was measured."
    planned = case(TP2, "fixed", 1, [60.0, 61.0])
    planned.id, planned.predicted = "c", [Estimate("speedup", "x", 1.8)]
    found = prediction(result([case(TP1, "fixed", 1, [40.0, 41.0]), planned]), guess, measured)
    assert found is not None
    assert found.value == 1.8


def test_what_a_guess_answers_is_said_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked("What share of the weights will one device hold?", "tp2/verification/c1")
    check_guess(0.5, asked, "test_tensor_parallel")
    said = capsys.readouterr().err
    assert "your guess, 0.5 %: What share" in said
    assert "if a share was meant, write 50" in said
    say_question(asked, "test_tensor_parallel")
    assert (
        capsys.readouterr().err
        == "guess first, if you like (--guess NUMBER, in %): What share of the weights will one device hold?\n"
    )
