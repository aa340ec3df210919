"""What stands below a run's tables: what to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.analysis.concurrency.table import concurrency_summary
from common.analysis.fairness.table import fairness_summary
from common.analysis.frames import latest_reference, load_sound
from common.core.verdict import Verdict
from common.experiment.options import parse
from common.experiment.report import nothing_comparable, print_last_line, print_next_step, scaling_summary
from common.machine.folders import WEEK
from tests.analysis.pairs import judged, side
from tests.experiment.script import load_script


def test_a_run_of_invalid_rows_says_that_nothing_is_comparable(capsys: pytest.CaptureFixture[str]) -> None:
    made = side()
    invalid = judged("INVALID", "the event loop stood still", remedy="end other programs")
    invalid(made.cases[0])
    assert nothing_comparable(made) == "", "one row is left"
    invalid(made.cases[1])
    print_next_step(made)
    assert capsys.readouterr().out == (
        "nothing comparable was measured: the client is INVALID in every row (the event loop stood still). End other"
        " programs, and give the same command again.\n"
    )


def test_the_last_line_tells_whose_client_is_not_to_be_believed(capsys: pytest.CaptureFixture[str]) -> None:
    made = side()
    first, second = (case.id for case in made.cases[:2])
    judged("VALID")(made.cases[1])
    judged("INVALID", "the event loop stood still")(made.cases[0])
    for summary in (scaling_summary(made), concurrency_summary(made), fairness_summary(made)):
        assert summary[first]["client"] == "INVALID"
        assert "client" not in summary[second]
    print_last_line(None, "complete", {})
    print_last_line(None, "complete", {}, client="INVALID")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("client") for line in lines] == [None, "INVALID"]


def test_what_was_verified_needs_no_rates() -> None:
    made = load_sound(latest_reference("test_tensor_parallel"))
    for case in made.cases:
        case.client = Verdict("INVALID", ["busy"], "wait")
    assert nothing_comparable(made) == ""


@pytest.mark.parametrize(("place", "script"), [(WEEK.parent, "week5/checklist.py"), (WEEK, "checklist.py")])
def test_the_next_step_and_the_help_work_where_they_are_read(
    place: Path, script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    print_next_step(side())
    out = capsys.readouterr().out
    assert out.endswith(f"python {script}\n")
    exercises = out.partition("three times: ")[2].partition(";")[0]
    assert Path(exercises).is_file()
    decide = load_script("decide")
    monkeypatch.setattr("sys.argv", [str(WEEK / "decide.py")])
    with pytest.raises(SystemExit):
        parse(decide.DecisionOptions, decide.__doc__ or "", ["--help"])
    assert f"python {script.replace('checklist', 'decide')} --rate 20" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["benchmark_scaling", "explain_loss", "compare_parallel_plans"])
def test_streams_without_a_number_are_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script(name)
    options = {"benchmark_scaling": "ScalingOptions", "explain_loss": "LossOptions"}.get(name, "PlanOptions")
    with pytest.raises(SystemExit):
        parse(getattr(script, options), "", ["--concurrency"])
    assert capsys.readouterr().err == ("error: --concurrency needs at least one number, as in --concurrency 1 4 16\n")
