"""`--workload` from the command line to the result: which requests are sent, what is said, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from common.core.arrivals import ClosedLoop, Replay
from common.core.workload import RecordedWorkload
from common.experiment.opening import _without
from common.store import files
from common.store.schema import Result
from tests.experiment.fakes import Load, World
from tests.experiment.script import Outcome, Script
from tests.load.workload_files import json_lines, packed, sharegpt, table, trace

MODEL = ("--model", "qwen2-9m", "--tp", "1", "2")
FIXED = (*MODEL, "--curves", "fixed", "--concurrency", "2", "4")
SECRET = "the silver key lies under the third flowerpot"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "my private folder"
    folder.mkdir()
    return folder / "diary"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def measure(script: Script, results: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        outcome = script(*arguments, "--results-dir", str(results))
        assert outcome.code == 0, outcome
        return files.load(Path(outcome.last["result"]))

    return run


def dry(script: Script, *arguments: str) -> Outcome:
    outcome = script(*arguments, "--dry-run")
    assert outcome.code == 0, outcome
    return outcome


def questions(path: Path, count: int) -> Path:
    return sharegpt(
        path, [(f"{SECRET} number {place}", "a b c d e f g h " * (1 + place % 7)) for place in range(count)]
    )


def slow_trace(path: Path, count: int = 40, gap_ms: int = 500) -> Path:
    return trace(path, [(1_000 + gap_ms * place, 50 + place, 10 + place % 5) for place in range(count)])


def replays(world: World) -> list[Load]:
    return [load for load in world.loads if isinstance(load.arrivals, Replay)]


# --- closed loops


def test_prompts_of_the_file_are_what_is_sent(measure: Callable[..., Result], world: World, file: Path) -> None:
    questions(file, 200)
    result = measure(*FIXED, "--workload", str(file))
    asked = {entry["conversations"][0]["value"] for entry in json.loads(file.read_text())}
    for load in world.measured:
        assert set(load.prompts) <= asked
        assert len(set(load.prompts)) == len(load.prompts)
    for case in result.cases:
        assert isinstance(case.workload, RecordedWorkload)
        assert isinstance(case.arrivals, ClosedLoop)
        assert case.workload.form == "sharegpt"
        assert case.workload.requests == 2 * case.arrivals.concurrency or case.arrivals.concurrency == 2
        assert case.workload.output_tokens > 4
    assert result.warnings == []


def test_every_plan_gets_the_same_requests_and_repeats_get_others_of_like_length(
    measure: Callable[..., Result], world: World, file: Path
) -> None:
    questions(file, 200)
    measure(*FIXED, "--workload", str(file), "--preset", "lab")
    for concurrency in (2, 4):
        loads = [load for load in world.measured if load.concurrency == concurrency]
        by_start: dict[str, dict[int, list[Load]]] = {"tp1": {}, "tp2": {}}
        for load in loads:
            by_start[load.plan].setdefault(load.engine, []).append(load)
        mine = [[load.requests for load in start] for start in by_start["tp1"].values()][:3]
        theirs = [[load.requests for load in start] for start in by_start["tp2"].values()]
        assert mine == theirs, "the same work in the same start and repeat, whatever the order of starts"
        for start in theirs:
            sent = [request.prompt for requests in start for request in requests]
            assert len(set(sent)) == len(sent), "under one engine no prompt comes twice"
            tokens = [sum(request.output_tokens for request in requests) for requests in start]
            assert max(tokens) < 1.25 * min(tokens), "and repeats are the same amount of work"


def test_warm_up_has_no_prompt_of_the_file(measure: Callable[..., Result], world: World, file: Path) -> None:
    questions(file, 100)
    measure(*FIXED, "--workload", str(file))
    warm = [load for load in world.loads if load.is_warm_up]
    assert warm
    assert all(isinstance(prompt, tuple) for load in warm for prompt in load.prompts)


def test_the_ladder_climbs_with_recorded_requests(measure: Callable[..., Result], world: World, file: Path) -> None:
    world.rate = lambda plan, concurrency: 10.0 * concurrency
    result = measure(*MODEL, "--curves", "saturated", "weak", "--workload", str(questions(file, 400)))
    assert {case.curve for case in result.cases} == {"ladder", "saturated", "weak"}
    assert all(isinstance(case.workload, RecordedWorkload) for case in result.cases)
    assert all(isinstance(prompt, str) for load in world.measured for prompt in load.prompts)


def test_a_short_file_is_sent_again_and_says_so_once(measure: Callable[..., Result], world: World, file: Path) -> None:
    json_lines(file, [{"prompt": f"{SECRET} {place}", "max_tokens": 5 + place} for place in range(5)])
    result = measure(*FIXED, "--workload", str(file))
    (warning,) = result.warnings
    assert "5 requests are fewer than the 24 that a case sends under one engine start" in warning
    (load, *_) = [load for load in world.measured if load.concurrency == 4]
    assert len(load.prompts) == 8
    assert set(load.prompts) == {f"{SECRET} {place}" for place in range(5)}


def test_output_tokens_fill_in_where_prompts_do_not_say(
    measure: Callable[..., Result], world: World, file: Path
) -> None:
    json_lines(file, [{"prompt": [5, 6, 7]}, {"prompt": [8, 9], "max_tokens": 3}] * 40)
    measure(*FIXED, "--workload", str(file), "--output-tokens", "21")
    assert {request.output_tokens for load in world.measured for request in load.requests} == {3, 21}
    world.loads.clear()
    measure(*FIXED, "--workload", str(file))
    assert {request.output_tokens for load in world.measured for request in load.requests} == {3, 32}


# --- replays


def test_a_trace_adds_the_replay_to_the_default_curves(measure: Callable[..., Result], file: Path) -> None:
    result = measure(*MODEL, "--workload", str(slow_trace(file)))
    assert [case.id for case in result.cases if case.curve == "replay"] == ["tp1/replay/x1", "tp2/replay/x1"]
    assert {case.curve for case in result.cases} == {"fixed", "saturated", "weak", "ladder", "replay"}


def test_every_plan_gets_the_same_replay(
    measure: Callable[..., Result], world: World, file: Path, results: Path
) -> None:
    world.rate = lambda plan, concurrency: {"tp1": 100.0, "tp2": 160.0}[plan]
    result = measure(*MODEL, "--curves", "replay", "--workload", str(slow_trace(file)), "--time-scale", "0.5")
    assert [case.id for case in result.cases] == ["tp1/replay/x0.5", "tp2/replay/x0.5"]
    assert all(case.arrivals == Replay(0.5) and case.workload.requests == 16 for case in result.cases)
    sent = replays(world)
    assert [load.plan for load in sent] == ["tp1"] * 3 + ["tp2"] * 3
    assert [load.requests for load in sent[:3]] == [load.requests for load in sent[3:]], "the same work"
    assert len({load.prompts[0] for load in sent}) == 3, "repeats do not find their own prompts in a cache"
    for load in sent:
        assert [request.at_s for request in load.requests] == [0.5 * place for place in range(16)]
        assert [len(request.prompt) for request in load.requests] == [50 + place for place in range(16)]
        assert [request.output_tokens for request in load.requests] == [10 + place % 5 for place in range(16)]
    warm = [load for load in world.loads if load.is_warm_up]
    assert [load.concurrency for load in warm] == [16, 16]

    faster = next(row for row in result.cases[1].summary if row.metric == "median_e2el_ms")
    slower = next(row for row in result.cases[0].summary if row.metric == "median_e2el_ms")
    assert slower.value / faster.value == pytest.approx(1.6, rel=1e-3)


def test_the_last_line_compares_a_replay_by_latency(script: Script, world: World, results: Path, file: Path) -> None:
    world.rate = lambda plan, concurrency: {"tp1": 100.0, "tp2": 160.0}[plan]
    outcome = script(
        *MODEL,
        "--curves",
        "replay",
        "--workload",
        str(slow_trace(file)),
        "--results-dir",
        str(results),
        "--preset",
        "lab",
    )
    row = outcome.last["summary"]["tp2/replay/x1"]
    assert row["speedup"] == pytest.approx(1.6, rel=1e-3)
    assert row["median_e2el_ms"] > 0
    assert "In the replay (times x1) 2 devices (tp2) answer the median request 1.60" in outcome.out
    assert any(line.split()[:3] == ["replay", "tp2", "x1"] for line in outcome.out.splitlines())


def test_a_long_trace_is_cut_by_number_and_by_time_and_the_dry_run_says_so(script: Script, file: Path) -> None:
    run = (*MODEL, "--curves", "replay", "--workload", str(slow_trace(file, 400, gap_ms=500)))
    assert "16 requests in 7.5 s, 58 in / 12 out on average, 3 repeats" in dry(script, *run).out
    assert "the trace's first 16 requests, 7.5 s (--preset smoke takes no more)" in dry(script, *run).out
    assert "16 requests in 3.75 s" in dry(script, *run, "--time-scale", "0.5").out
    assert "8 requests in 14 s" in dry(script, *run, "--time-scale", "4").out
    assert "121 requests in 60 s" in dry(script, *run, "--preset", "lab").out
    short = (*MODEL, "--curves", "replay", "--workload", str(slow_trace(file.with_name("short"), 5)))
    assert "first" not in dry(script, *short).out
    assert dry(script, *run).last["summary"]["minutes"] > dry(script, *short).last["summary"]["minutes"]


def test_smokes_replay_stays_within_about_a_minute(script: Script, file: Path) -> None:
    slow_trace(file, 400)
    with_it = dry(script, *MODEL, "--tp", "1", "--curves", "fixed", "replay", "--workload", str(file))
    without = dry(script, *MODEL, "--tp", "1", "--curves", "fixed", "--workload", str(file))
    added_minutes = with_it.last["summary"]["minutes"] - without.last["summary"]["minutes"]
    assert 0 < added_minutes < 1.1


def test_a_trace_in_a_table_replays_too(measure: Callable[..., Result], world: World, file: Path) -> None:
    table(file, "TIMESTAMP,ContextTokens,GeneratedTokens", [f"2023-11-16 18:17:0{at}.5,40,5" for at in range(6)])
    measure(*MODEL, "--curves", "replay", "--workload", str(packed(file)))
    assert [request.at_s for request in replays(world)[0].requests] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_plans_that_cannot_run_are_skipped_replays(measure: Callable[..., Result], file: Path) -> None:
    result = measure("--model", "qwen2-9m", "--curves", "replay", "--workload", str(slow_trace(file)))
    states = {case.id: case.status for case in result.cases}
    assert states == {"tp1/replay/x1": "ok", "tp2/replay/x1": "ok", "tp4/replay/x1": "skipped"}


def test_an_interrupted_replay_resumes(script: Script, world: World, results: Path, file: Path) -> None:
    run = (*MODEL, "--curves", "replay", "--workload", str(slow_trace(file)), "--results-dir", str(results))
    world.incidents[4] = "interrupt"
    assert script(*run).code == 130
    world.incidents.clear()
    world.loads.clear()
    moved = file.rename(file.with_name("moved.jsonl"))
    again = script(*(str(moved) if word == str(file) else word for word in run))
    assert again.code == 0
    assert "going on with" in again.err, "the same file is the same work, wherever it lies"
    assert {load.plan for load in replays(world)} == {"tp2"}


def test_another_file_is_other_work(script: Script, world: World, results: Path, file: Path) -> None:
    run = (*MODEL, "--curves", "replay", "--workload", str(slow_trace(file)), "--results-dir", str(results))
    world.incidents[4] = "interrupt"
    assert script(*run).code == 130
    world.incidents.clear()
    slow_trace(file, gap_ms=400)
    assert "going on with" not in script(*run).err
    assert len(list((results / "benchmark_scaling").glob("*.json"))) == 2


# --- what a result says, and what it does not


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sharegpt", "jsonl", "ids", "failing"])
def test_nothing_of_a_prompt_and_nothing_of_its_place_gets_into_what_is_saved(
    script: Script, world: World, results: Path, file: Path, form: str
) -> None:
    ids = [4_242, 4_243, 4_244, 4_245, 4_246]
    if form == "sharegpt":
        questions(file, 60)
    elif form == "ids":
        json_lines(file, [{"prompt": ids}] * 60)
    else:
        json_lines(file, [{"prompt": f"{SECRET} {place}", "max_tokens": 9} for place in range(60)])
    if form == "failing":
        world.incidents = {0: "die", 4: "fail some"}
    for flag in (("--workload", str(file)), (f"--workload={file}",)):
        script(*FIXED, "--no-resume", *flag, "--results-dir", str(results), "--seed", "3")
    saved = [path for path in results.rglob("*") if path.is_file()]
    assert {path.suffix for path in saved} == {".json", ".parquet"}
    assert len(saved) > 20
    for path in saved:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += json.dumps(pyarrow.parquet.read_table(path).to_pylist()).encode()
        for part in ("flowerpot", "silver key", "diary", "private folder", "a b c d e", "4242, 4243", "4242,4243"):
            assert part.encode() not in content, (path, part)


def test_what_a_result_says_of_the_file(measure: Callable[..., Result], file: Path) -> None:
    trace(file, [(500 * place, 40, 5) for place in range(30)] + [(15_000, 5_000, 5)] * 3 + [(10, 40, 5)])
    result = measure(*FIXED, "--workload", str(file), "--results-dir", str(file.parent))
    about = result.config["workload"]
    assert (about["form"], about["requests"]) == ("trace", 24)
    assert len(about["sha256"]) == 64
    assert all(isinstance(case.workload, RecordedWorkload) for case in result.cases)
    assert {case.workload.sha256 for case in result.cases if isinstance(case.workload, RecordedWorkload)} == {
        about["sha256"]
    }
    assert result.config["time_scale"] is None
    assert not any(str(file.parent) in word for word in result.argv)
    assert "--workload" not in result.argv and "--curves" in result.argv


def test_what_was_left_out_is_a_warning(measure: Callable[..., Result], file: Path) -> None:
    trace(file, [(0, 5_000, 5), (5, 40, 0), (3, 40, 5), (1, 40, 5), (4, 40, 5), (6, 40, 5)])
    result = measure(*MODEL, "--curves", "replay", "--workload", str(file))
    assert result.warnings == [
        "Of the workload's first 6 requests some were left out: 1 longer than the context of 1024 tokens, 1 empty.",
        "The workload's timestamps went back: its requests were sorted by time.",
    ]
    assert result.config["workload"]["left_out"] == {"longer than the context of 1024 tokens": 1, "empty": 1}


@pytest.mark.parametrize("flag", [["--engine-args", "--max-model-len 2048"], ["--engine-args=--max_model_len=2048"]])
def test_a_longer_context_takes_longer_requests(script: Script, file: Path, flag: list[str]) -> None:
    trace(file, [(place, 1_500, 500) for place in range(5)])
    run = (*MODEL, "--curves", "replay", "--workload", str(file))
    assert "--max-model-len" in script(*run, "--dry-run").refusal()
    assert "5 requests in" in dry(script, *run, *flag).out


def test_the_dry_run_tells_what_was_read(script: Script, world: World, file: Path) -> None:
    outcome = dry(script, *FIXED, "--workload", str(questions(file, 30)))
    assert "workload: sharegpt, 24 requests read" in outcome.out
    assert "on average" in outcome.out
    workload = outcome.last["summary"]["workload"]
    assert workload["requests"] == 24 and workload["form"] == "sharegpt"
    assert world.starts == []
    assert "flowerpot" not in outcome.out + outcome.err


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--time-scale", "0.5"], "--time-scale needs a trace"),
        (["--curves", "replay"], "--curves replay needs a trace"),
        (["--curves", "fixed", "replay"], "--workload FILE"),
        (["--workload"], "--workload"),
        (["--workload", "/nowhere/at/all"], "No such file"),
        (["--workload", "TRACE", "--time-scale", "0"], "--time-scale 0"),
        (["--workload", "TRACE", "--time-scale", "-1"], "--time-scale -1"),
        (["--workload", "TRACE", "--time-scale", "nan"], "--time-scale nan"),
        (["--workload", "TRACE", "--time-scale", "inf"], "--time-scale inf"),
        (["--workload", "TRACE", "--time-scale", "fast"], "--time-scale"),
        (["--workload", "TRACE", "--curves", "fixed", "--time-scale", "2"], "add replay to --curves"),
        (["--workload", "TRACE", "--input-tokens", "8"], "--input-tokens and --workload exclude each other"),
        (["--workload", "TRACE", "--output-tokens", "8"], "leave the option out"),
        (["--workload", "TRACE", "--time-scale", "60"], "--time-scale 10"),
        (["--workload", "PROMPTS", "--time-scale", "2"], "has none: leave it out"),
        (["--workload", "PROMPTS", "--curves", "replay"], "leave replay out"),
        (["--workload", "PROMPTS", "--input-tokens", "8"], "--input-tokens and --workload exclude each other"),
        (["--workload", "FOREIGN"], "line 1 has the token id 99999, outside the model's vocabulary of 10240"),
        (["--workload", "LONG"], "can be sent (3 longer than the context of 1024 tokens)"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    script: Script, world: World, file: Path, arguments: list[str], named: str
) -> None:
    made = {
        "TRACE": lambda path: slow_trace(path),
        "PROMPTS": lambda path: json_lines(path, [{"prompt": "a b c d e"}] * 9),
        "FOREIGN": lambda path: json_lines(path, [{"prompt": [99_999]}]),
        "LONG": lambda path: json_lines(path, [{"prompt": "word " * 2_000}] * 3),
    }
    words = [str(made[word](file)) if word in made else word for word in arguments]
    assert named in script(*MODEL, "--dry-run", *words).refusal()
    assert world.starts == []


def test_the_scale_that_a_refusal_names_is_accepted(script: Script, file: Path) -> None:
    run = (*MODEL, "--curves", "replay", "--workload", str(slow_trace(file, gap_ms=17_321)))
    line = script(*run, "--dry-run").refusal()
    scale = line.rpartition("--time-scale ")[2]
    assert "4 requests in" in dry(script, *run, "--time-scale", scale).out


def test_an_experiment_with_requests_of_its_own_refuses_a_file(
    script: Script, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """Another script that shares the options but not the reading must not ignore the file in silence."""
    plain = script.module.cases_of_plan
    monkeypatch.setattr(script.module, "cases_of_plan", lambda *arguments: plain(*arguments[:5]))
    line = script(*FIXED, "--workload", str(questions(file, 30)), "--dry-run").refusal()
    assert "sends requests of its own: leave --workload out" in line


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--workload", "/x/y", "--tp", "1"], ["--tp", "1"]),
        (["--tp", "1", "--workload=/x/y"], ["--tp", "1"]),
        (["--results_dir", "/x", "--workload", "/y", "--seed", "3"], ["--seed", "3"]),
        (["--results-dir=/x", "--seed=3"], ["--seed=3"]),
        (["--tp", "1", "--workload"], ["--tp", "1"]),
        ([], []),
    ],
)
def test_paths_are_taken_out_of_a_command_line_however_they_are_written(words: list[str], kept: list[str]) -> None:
    assert _without(words, ("--workload", "--results-dir")) == kept
