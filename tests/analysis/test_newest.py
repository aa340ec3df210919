"""Which result the commands take where none is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.analysis import __main__
from common.analysis.__main__ import main
from common.analysis.frames import load_results
from common.store.files import save
from common.store.schema import CaseError, Result
from tests.analysis.pairs import side

OLDER, NEWER, NEWEST = (f"2026010{day}T000000Z-m-x" for day in (1, 2, 3))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own results, in which the commands look."""
    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "results")
    monkeypatch.delenv("LAB_RESULT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def kept(results: Path, made: Result) -> Path:
    path = results / made.experiment / f"{made.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(made, path)
    return path


def empty(run_id: str, status: str = "running") -> Result:
    made = side(run_id=run_id, status=status)
    made.cases = []
    return made


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["analysis", *words])
    return main()


def test_a_newer_one_that_is_still_empty_is_passed_over_and_named(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(results, side(run_id=OLDER))
    kept(results, empty(NEWER, "interrupted"))
    running = kept(results, empty(NEWEST))
    assert command(monkeypatch, "look", "--out", "figures") == 0
    out, err = capsys.readouterr()
    assert "measured to its end" not in out and "tp2" in out
    assert err == (
        f"note: {running} has no measured row (still running, or killed), nor have 1 before it; name it to take it all"
        f" the same; this is {OLDER}.json\n"
    )
    assert command(monkeypatch, "share") == 0
    assert [one.run_id for one in load_results(Path("share.zip"))] == [OLDER]
    assert running.name in capsys.readouterr().err


def test_a_part_of_a_run_is_shown_and_the_newest_whole_one_named(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = kept(results, side(run_id=OLDER))
    kept(results, side(run_id=NEWER, status="interrupted"))
    damaged = kept(results, side(run_id="20260102T120000Z-m-x"))
    damaged.write_text("{")
    assert command(monkeypatch, "look", "--out", "figures") == 2, "the newest cannot be read"
    capsys.readouterr()
    damaged.rename(damaged.with_name("20260101T120000Z-m-x.json"))
    assert command(monkeypatch, "look", "--out", "figures") == 0
    assert capsys.readouterr().err == f"note: {NEWER} is interrupted; name {whole} for the newest that ended\n"


def test_the_report_is_of_the_one_with_rows(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(results, side(run_id=OLDER, experiment="explain_loss"))
    kept(results, empty(NEWEST))
    assert command(monkeypatch, "report", "--out", "pages") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].endswith(f"{OLDER}.html") and f"{NEWEST}.json has no measured row" in err


@pytest.mark.slow
def test_without_any_row_of_ones_own_it_is_the_committed_reference(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = kept(results, empty(NEWEST))
    assert command(monkeypatch, "look", "--out", "figures") == 0
    out, err = capsys.readouterr()
    assert "base" in out and str(running) in err
    assert command(monkeypatch, "share") == 2
    assert str(running) in capsys.readouterr().err and not Path("share.zip").exists()


def test_an_empty_one_that_is_named_says_so(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = side(run_id=NEWEST)
    for case in failed.cases:
        case.repeats, case.status, case.error = [], "failed", CaseError("memory", "out of memory", "Use a larger one")
    path = kept(results, failed)
    assert command(monkeypatch, "look", str(path), "--out", "figures") == 0
    assert capsys.readouterr().err == f"note: {NEWEST} has no measured row (run to its end, 2 cases failed)\n"
