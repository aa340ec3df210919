"""The evening from a command line to its report, with fake engines whose rates are planted."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from common.store import files
from common.store.schema import Result
from tests.experiment.fakes import World
from tests.experiment.script import Script, load_script

SMALL = ("--model", "qwen2-9m", "--tp", "1", "2")
LOADS = ("--parts", "scaling", "latency", "concurrency", "sequences")


@pytest.fixture(scope="session")
def script_module() -> ModuleType:
    return load_script("run_distributed_benchmark")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_result(results: Path) -> tuple[Path, Result]:
    (path,) = (results / "run_distributed_benchmark").glob("*.json")
    return path, files.load(path)


@pytest.mark.slow
def test_each_engine_is_started_once_for_all_parts(script: Script, world: World, results: Path) -> None:
    outcome = script(*SMALL, *LOADS, "--repeats", "2", "--max-minutes", "600", "--results-dir", str(results))
    assert outcome.code == 0, outcome
    path, result = the_result(results)
    assert result.status == "complete" and all(case.status == "ok" for case in result.cases)
    assert {len(case.repeats) for case in result.cases if case.curve != "ladder"} == {2}, "in every part"
    settings = [(plan, made.max_num_seqs) for (plan, _), made in zip(world.starts, world.settings, strict=True)]
    assert settings == [("tp1", 256), ("tp2", 256), ("tp2", 8), ("tp2", 32), ("tp2", 128)]
    curves = {case.curve.partition("-")[0] for case in result.cases}
    assert {"fixed", "saturated", "weak", "latency", "closed", "batch", "max_num_seqs"} <= curves
    report = path.with_suffix("").with_name(f"{path.stem}.report")
    assert {file.name for file in report.iterdir()} >= {"report.md", "report.html", "speedup.png", "concurrency.png"}
    page = (report / "report.html").read_text()
    assert 'src="data:image/png;base64,' in page and "http" not in page.partition("<body>")[2].replace("https://", "")
    assert "| plan |" in (report / "report.md").read_text()
    assert f"report: {report / 'report.md'}" in outcome.out


@pytest.mark.slow
def test_the_cheapest_plan_within_the_limits_is_named(script: Script, world: World, results: Path) -> None:
    world.rate = lambda plan, clients: {"tp1": 50.0, "tp2": 80.0}[plan] * clients
    outcome = script(
        *SMALL, "--parts", "scaling", "concurrency", "--usd-per-hour", "3.6", "--results-dir", str(results)
    )
    summary = outcome.last["summary"]
    assert summary["recommended"] == "tp2"
    # $3.60 an hour is $0.001 a second: 80 tok/s on each of 64 streams are 5,120 tokens for it
    assert summary["plans"]["tp2"]["usd_per_million_output_tokens"] == pytest.approx(1e6 * 0.001 / 5_120, rel=0.01)
    assert "tp2 gives most for the machine's price" in outcome.out


@pytest.mark.slow
def test_a_budget_leaves_out_the_least_valuable_and_says_so(script: Script, world: World, results: Path) -> None:
    outcome = script(*SMALL, *LOADS, "--max-minutes", "2", "--results-dir", str(results))
    assert outcome.code == 0
    _, result = the_result(results)
    skipped = [case for case in result.cases if case.status == "skipped"]
    assert skipped and all(case.error is not None and case.error.kind == "budget" for case in skipped)
    assert {case.curve for case in result.cases if case.status == "ok"} >= {"fixed", "saturated"}
    assert {plan for plan, _ in world.starts} == {"tp1", "tp2"}, "both plans: a speed-up is worth most"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-minutes", "0"), "--max-minutes 0: a number above 0"),
        (("--max-minutes", "-5"), "--max-minutes -5: a number above 0"),
        (("--max-usd", "5"), "needs the machine's price"),
        (("--max-minutes", "0.01"), "not enough for a single case"),
        (("--parts", "dancing"), "--parts"),
        (("--slo", "ttft"), "--slo"),
    ],
)
def test_bad_input_is_one_line(script: Script, arguments: tuple[str, ...], message: str, results: Path) -> None:
    assert message in script(*SMALL, *arguments, "--results-dir", str(results)).refusal()


def test_dollars_are_minutes(script: Script, results: Path) -> None:
    outcome = script(*SMALL, *LOADS, "--usd-per-hour", "60", "--max-usd", "2", "--dry-run")
    limited = script(*SMALL, *LOADS, "--max-minutes", "2", "--dry-run")
    assert outcome.last["summary"]["cases"] == limited.last["summary"]["cases"]
    assert "no time was left for it in 2 minutes" in outcome.out
