"""`python -m common.analysis` as a reader runs it; `report` is tested with the notebook."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.analysis.__main__ import main
from common.analysis.frames import latest_reference
from common.predict.__main__ import main as predict_main
from common.store.files import save
from tests.analysis.planted import full


def test_look_prints_the_table_and_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{full().run_id}.json"
    save(full(), path)
    monkeypatch.setattr(sys, "argv", ["look", "look", "--result", str(path), "--out", str(tmp_path / "figures")])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("saturated  tp2") for line in lines)
    assert all(Path(line).stat().st_size > 10_000 for line in lines[-3:])


@pytest.mark.slow
def test_look_takes_the_file_as_its_word_as_compare_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{full().run_id}.json"
    save(full(), path)
    monkeypatch.setattr(sys, "argv", ["look", "look", str(path), "--out", str(tmp_path / "figures")])
    assert main() == 0
    assert "saturated  tp2" in capsys.readouterr().out


def test_a_missing_result_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["look", "look", "--result", "/nowhere/at-all.json"])
    assert main() == 2
    assert (
        capsys.readouterr().err
        == "error: cannot read /nowhere/at-all.json: No such file or directory; give another file, or measure again\n"
    )


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (main, ("compare", "a", "b", "--factor", "foo"), "invalid choice 'foo' for argument '--factor'"),
        (main, ("look", "--bogus"), "unknown option --bogus"),
        (predict_main, ("evaluate", "a", "--calibrate-device", "1"), "did you mean --calibrate-devices?"),
    ],
)
def test_a_wrong_option_is_one_line(
    command: Callable[[], int],
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as end:
        command()
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err


@pytest.mark.slow
def test_a_loss_is_shown_in_four_bars_by_look_and_by_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = latest_reference("explain_loss")
    words = ["--result", str(path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["look", "look", *words])
    assert main() == 0
    out = capsys.readouterr().out
    assert "10.1         12.0 [9.6" in out and "with that growth 10.5, measured 10.1" in out
    assert "tp2/fixed/c16                 327" in out and "unexplained" in out and "Knock-out at 16 streams" in out
    figure = tmp_path / f"{path.stem}-loss.png"
    assert str(figure) in out.splitlines()
    drawn = figure.read_bytes()
    monkeypatch.setattr(sys, "argv", ["look", "report", *words])
    assert main() == 0
    page = (tmp_path / f"{path.stem}.html").read_text()
    assert "Where the rest of n times goes" in page and "tp2/fixed/c16                 327" in page
    assert base64.b64encode(drawn[:3000]).decode() in page


@pytest.mark.parametrize("files", [(), ("a.json",), ("a.json",) * 6])
def test_compare_takes_two(
    files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["look", "compare", *files, "--factor", "machine"])
    assert main() == 2
    assert capsys.readouterr().err == (
        f"error: compare takes two results, A and B: {len(files)} given; name two of them\n"
    )


@pytest.mark.parametrize(
    ("command", "usage"),
    [(main, "usage: python -m common.analysis "), (predict_main, "usage: python -m common.predict ")],
)
def test_the_usage_line_can_be_typed(
    command: Callable[[], int], usage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/common/x/__main__.py", "--help"])
    with pytest.raises(SystemExit):
        command()
    assert usage in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "heading", "figures"),
    [
        ("benchmark_scaling", "Scaling", 3),
        ("simulate_concurrent_requests", "Concurrency", 2),
        ("test_mixed_workload", "Mixed", 1),
        ("test_tensor_parallel", "", 0),
    ],
)
def test_look_shows_a_result_of_any_experiment(  # fixtures
    experiment: str,
    heading: str,
    figures: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("LAB_RESULT", raising=False)
    path = latest_reference(experiment)
    monkeypatch.setattr(sys, "argv", ["look", "look", "--result", str(path), "--out", str(tmp_path)])
    assert main() == 0
    shown = capsys.readouterr().out
    assert heading in shown and "tp1" in shown
    assert len(list(tmp_path.glob("*.png"))) == figures
