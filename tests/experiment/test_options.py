"""The command line: what is wrong is one line with a remedy and exit code 2, and --help teaches."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.experiment.options import RESULTS, InputError, Options, parse
from tests.experiment.fakes import World
from tests.experiment.script import SCRIPTS, Script

SCRIPT = SCRIPTS / "benchmark_scaling.py"
ROOT = SCRIPTS.parent
SMALL = ("--model", "qwen2-9m", "--dry-run")


def parsed(*arguments: str) -> Options:
    return parse(Options, "", list(arguments))


def test_the_defaults_are_the_designs() -> None:
    options = parsed()
    assert options.tp_sizes() == [1, 2, 4]
    assert (options.preset, options.seed, options.resume, options.dry_run) == ("smoke", 0, True, False)
    assert options.model is None
    assert options.results_dir == RESULTS == ROOT / "results"


def test_everything_can_be_said(tmp_path: Path) -> None:
    options = parsed(
        *("--model", "x/y", "--tp", "4", "1", "2", "2", "--preset", "full", "--repeats", "7", "--seed", "3"),
        *("--results-dir", str(tmp_path), "--no-resume", "--dry-run", "--cores-per-device", "2"),
        *("--device-ids", "0", "3", "--engine-args=--max-model-len 2048", "--usd-per-hour", "7.6"),
    )
    assert options == Options(
        "x/y", ("4", "1", "2", "2"), "full", 7, 3, tmp_path, False, True, 2, (0, 3), "--max-model-len 2048", 7.6
    )
    assert options.tp_sizes() == [1, 2, 4], "ascending, each once"


def test_engine_args_may_stand_apart_as_the_help_shows_it() -> None:
    assert parsed("--engine-args", "--max-model-len 2048").engine_args == "--max-model-len 2048"
    assert parsed("--engine-args=--max-model-len 2048").engine_args == "--max-model-len 2048"


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed().seed = 1  # type: ignore[misc]


def test_no_sizes_are_an_input_error() -> None:
    with pytest.raises(InputError, match="at least one size"):
        Options(tp=()).tp_sizes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tp", "0"], "--tp 0"),
        (["--tp", "1000000"], "from 1 to 9999"),
        (["--model", ""], "--model: the name is empty"),
        (["--model", " "], "--model: the name is empty"),
        (["--results-dir", ""], "--results-dir: the path is empty"),
        (["--results-dir="], "--results-dir: the path is empty"),
        (["--engine-python", ""], "--engine-python: the path is empty"),
        (["--tp", "-1"], "--tp -1"),
        (["--tp", "abc"], "--tp abc"),
        (["--tp", "1.5"], "--tp 1.5"),
        (["--tp", ""], "--tp"),
        (["--tp", "1", "two"], "--tp two"),
        (["--tp", "²"], "--tp ²"),
        (["--tp", "1e3"], "--tp 1e3"),
        (["--tp"], "--tp needs at least one size"),
        (["--preset", "huge"], "'smoke', 'lab', 'full'"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", "x"], "error: --seed x: a whole number is needed. See --help"),
        (["--seed", "1.5"], "--seed"),
        (["--repeats", "0"], "--repeats 0"),
        (["--repeats", "-3"], "--repeats -3"),
        (["--repeats", "100000000"], "--repeats 100000000: at most 1,000"),
        (["--repeats", "many"], "--repeats"),
        (["--turns", "100000000"], "--turns 100000000: at most 62,500, since the prompts"),
        (["--usd-per-hour", "-1"], "--usd-per-hour -1"),
        (["--usd-per-hour", "0"], "--usd-per-hour 0"),
        (["--usd-per-hour", "nan"], "--usd-per-hour nan"),
        (["--usd-per-hour", "inf"], "--usd-per-hour inf"),
        (["--usd-per-hour", "cheap"], "error: --usd-per-hour cheap: a number is needed. See --help"),
        (["--guess", "abc"], "error: --guess abc: a number is needed. See --help"),
        (["--device-ids", "a", "b"], "error: --device-ids a b: a whole number is needed. See --help"),
        (["--cores-per-device", "half"], "--cores-per-device"),
        (["--resutls-dir", "x"], "--results-dir"),
        (["--preste", "lab"], "--preset"),
        (["--dryrun"], "--dry-run"),
        (["--model"], "--model"),
        (["stray"], "stray"),
        (["--bogus-flag"], "--bogus-flag"),
    ],
)
def test_a_wrong_option_is_one_line(
    script: Script, world: World, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line = script(*arguments).refusal()
    assert named in line
    assert "│" not in line
    assert world.starts == []


@pytest.mark.slow
def test_tyros_frame_is_left_out_where_the_terminal_is_ascii() -> None:
    said = run_script("--preset", "huge", PYTHONIOENCODING="ascii")
    assert said.returncode == 2
    assert "-----" not in said.stderr
    assert len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tp", "3"], "legal sizes: 1, 2, 4, 8"),
        (["--tp", "1", "16"], "legal sizes: 1, 2, 4, 8"),
        (["--tp", "4"], "needs 4 devices"),
        (["--engine-args=--tensor-parallel-size 2"], "--tensor-parallel-size"),
        (["--engine-args='half"], "--engine-args"),
        (["--concurrency", "0"], "--concurrency"),
        (["--concurrency", "-4"], "--concurrency"),
        (["--concurrency"], "--concurrency"),
        (["--input-tokens", "0"], "--input-tokens"),
        (["--input-tokens", "-5"], "--input-tokens"),
        (["--output-tokens", "0"], "--output-tokens"),
        (["--curves", "nonsense"], "fixed"),
        (["--curves"], "--curves"),
        (["--input-tokens", "1500"], "--input-tokens"),
    ],
)
def test_what_this_model_or_machine_cannot_do_is_one_line(
    script: Script, world: World, arguments: list[str], named: str
) -> None:
    assert named in script("--model", "qwen2-9m", "--dry-run", *arguments).refusal()
    assert world.starts == []


@pytest.mark.parametrize(
    ("model", "named"),
    [("qwen2-9", "did you mean qwen2-9m?"), ("nobody/nothing", "check the network"), ("/x/y", "/x/y")],
)
def test_a_model_that_is_not_there_is_one_line(script: Script, model: str, named: str) -> None:
    assert named in script("--model", model, "--dry-run").refusal()


def test_a_wrong_results_folder_is_one_line_before_anything_starts(
    script: Script, world: World, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    line = script("--model", "qwen2-9m", "--results-dir", str(tmp_path / "file")).refusal()
    assert "choose another with --results-dir" in line
    assert world.starts == []


def test_a_dry_run_says_where_it_could_not_write(script: Script, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = script("--model", "qwen2-9m", "--dry-run", "--results-dir", str(tmp_path / "file")).refusal()
    assert "choose another with --results-dir" in line
    assert script("--model", "qwen2-9m", "--dry-run", "--results-dir", str(tmp_path / "new")).code == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["{", '{"schema_version": 99}'])
def test_an_unreadable_result_is_one_line_and_stays(script: Script, world: World, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "benchmark_scaling"
    folder.mkdir()
    (folder / "20260101T000000Z-m-x.json").write_text(content)
    line = script("--model", "qwen2-9m", "--results-dir", str(tmp_path)).refusal()
    assert "--no-resume" in line
    assert world.starts == []
    assert [path.read_text() for path in folder.glob("*.json")] == [content]


def test_the_same_concurrency_twice_is_one_case(script: Script) -> None:
    outcome = script(*SMALL, "--tp", "1", "--concurrency", "2", "2", "--curves", "fixed")
    assert outcome.last["summary"]["cases"] == 1


# --- --help and --dry-run, as a user starts them


def run_script(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=60,
    )


@pytest.mark.slow
def test_help_teaches_every_flag(script: Script) -> None:
    said = run_script("--help", COLUMNS="80", NO_COLOR="1")
    assert said.returncode == 0
    kind = script.module.ScalingOptions
    for name in (field.name for field in dataclasses.fields(kind)):
        assert f"--{name.replace('_', '-')}" in said.stdout, name
    beginnings = {line.split()[0] for line in said.stdout.splitlines() if line.strip()}
    assert {"Question.", "Prediction.", "Method.", "Reading.", "Examples:"} <= beginnings, (
        "the docstring is the protocol"
    )
    framed = [line for line in said.stdout.splitlines() if line.startswith(("│", "|"))]
    assert framed
    assert max(len(line) for line in framed) <= 80
    assert "\x1b" not in said.stdout


def test_examples_of_the_help_are_commands_that_parse(script: Script) -> None:
    text = script.module.__doc__
    assert text is not None
    lines = [line.partition("#")[0].split() for line in text.splitlines() if line.strip().startswith("python ")]
    assert len(lines) >= 3
    for _, name, *arguments in lines:
        assert name == SCRIPT.name
        assert parse(script.module.ScalingOptions, "", arguments)


@pytest.mark.slow
def test_a_dry_run_works_from_any_folder_and_starts_and_writes_nothing(tmp_path: Path, model_cache: Path) -> None:
    results = tmp_path / "results"
    said = run_script(
        *SMALL,
        "--tp",
        "1",
        "--results-dir",
        str(results),
        "--usd-per-hour",
        "3.6",
        cwd=tmp_path,
        LAB_CACHE_DIR=str(model_cache),
    )
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    assert not results.exists()
    last = said.stdout.splitlines()[-1]
    assert last.startswith('{"result": null, "status": "dry-run"')


def test_a_dry_run_tells_cases_starts_minutes_and_dollars(script: Script, world: World) -> None:
    outcome = script(*SMALL, "--preset", "lab", "--usd-per-hour", "3.6")
    assert outcome.code == 0
    summary = outcome.last["summary"]
    assert summary["cases"] == 9, "two plans of four cases, tp2 pinned; tp4 has too few devices"
    assert summary["engine_starts"] == 10, "three for each plan and for tp2 pinned, and the base once more"
    assert summary["usd"] == pytest.approx(summary["minutes"] * 0.06, abs=0.01)
    assert "tp4 needs 4 devices, this machine has 2" in outcome.out
    assert f"${summary['usd']:.2f}" in outcome.out
    assert world.starts == []


@pytest.mark.parametrize(("gpus", "repeats"), [((), 6), (("--dry-run-gpus", "2"), 3)])
def test_one_stream_is_repeated_more_on_a_cpu(script: Script, gpus: tuple[str, ...], repeats: int) -> None:
    words = ("--tp", "1", "2", "--curves", "fixed", "--concurrency", "1", "2", *gpus)
    lines = [line for line in script(*SMALL, *words).out.splitlines() if line.startswith("tp")]
    assert [line.rpartition(", ")[2] for line in lines if "/c1 " in line] == [f"{repeats} repeats"] * 2
    assert [line.rpartition(", ")[2] for line in lines if "/c2 " in line] == ["3 repeats"] * 2


def test_a_dry_run_counts_the_engine_starts_that_a_run_makes(script: Script, world: World, tmp_path: Path) -> None:
    arguments = ("--model", "qwen2-9m", "--preset", "lab", "--curves", "fixed", "--results-dir", str(tmp_path))
    promised = script(*arguments, "--dry-run").last["summary"]
    assert script(*arguments).code == 0
    assert promised["engine_starts"] == len(world.starts)


def test_a_dry_run_says_what_the_run_would_go_on_with(script: Script, world: World, tmp_path: Path) -> None:
    work = ("--model", "qwen2-9m", "--tp", "1", "2", "--curves", "fixed", "--concurrency", "2")
    run = (*work, "--results-dir", str(tmp_path))
    assert "go on" not in script(*run, "--dry-run").out
    world.incidents[4] = "interrupt"  # in the second case: the first has three repeats
    assert script(*run).code == 130
    (begun,) = (tmp_path / "benchmark_scaling").glob("*.json")
    before = begun.read_bytes()
    said = script(*run, "--dry-run").out
    assert f"go on with {begun}: 1 of 2 cases is measured there (--no-resume starts afresh)" in said
    assert "all of it: 2 cases, 2 engine starts" in said
    assert begun.read_bytes() == before
    assert "go on" not in script(*run, "--dry-run", "--no-resume").out
    assert "go on" not in script(*run, "--dry-run", "--dry-run-gpus", "2").out, "that is another machine's work"


def test_a_dry_run_meets_the_damaged_result_that_the_run_would_meet(script: Script, tmp_path: Path) -> None:
    broken = tmp_path / "benchmark_scaling" / "20260101T000000Z-there-qwen2-9m.json"
    broken.parent.mkdir()
    broken.write_text('{"schema_version": 1, "cases": [')
    outcome = script(*SMALL, "--results-dir", str(tmp_path))
    assert outcome.code == 2
    assert "is truncated or not JSON; move it away, or start afresh with --no-resume" in outcome.err
    assert script(*SMALL, "--results-dir", str(tmp_path), "--no-resume").code == 0
