"""week5/test_mixed_workload.py in this process, with a world where long requests hold up short ones by known times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from common.core.mix import MixedWorkload, RequestClass, only
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.experiment import bench
from common.experiment.mix_spec import MixSpec, runs_as_asked
from common.experiment.roofline import Roofline
from common.store import files
from common.store.requests import load_requests
from common.store.schema import Result
from tests.experiment.mixed_world import MixedWorld
from tests.experiment.script import Script, load_script

SHORT, LONG = RequestClass("short", 16, 8, 8), RequestClass("long", 1, 1024, 4, burstiness=None)
SPEC = MixSpec(ParallelPlan(), "off", MixedWorkload((SHORT, LONG), 8.0), 10_240, repeats=2)
MODEL = ("--model", "qwen2-9m", "--tp", "1")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> MixedWorld:
    made = MixedWorld()
    monkeypatch.setattr(bench, "run_load", made.run_load)
    return made


@pytest.fixture(scope="module")
def script_module() -> ModuleType:
    return load_script("test_mixed_workload")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_result(results: Path) -> Result:
    (path,) = (results / "test_mixed_workload").glob("*.json")
    return files.load(path)


def test_a_repeat_is_a_class_alone_the_other_alone_and_both(script: Script, world: MixedWorld, results: Path) -> None:
    outcome = script(*MODEL, "--variants", "off", "--repeats", "2", "--results-dir", str(results))
    assert outcome.code == 0, outcome
    assert [set(part) for part in world.parts] == [
        *({"short"}, {"long"}, {"short", "long"}),
        *({"short", "long"}, {"long"}, {"short"}),
    ], "the order is turned round"
    first, second = world.loads[1:4], world.loads[4:7]
    for name, alone in (("short", first[0]), ("long", first[1])):
        assert alone.requests == only(first[2].requests, name), "the same times and prompts"
    assert not set(first[2].prompts) & set(second[0].prompts), "another repeat has other prompts"


def test_planted_waiting_is_measured(script: Script, world: MixedWorld, results: Path) -> None:
    outcome = script(*MODEL, "--variants", "off", "--results-dir", str(results))
    (case,) = the_result(results).cases
    assert len(case.repeats) == 3
    for repeat in case.repeats:
        assert repeat["alone_short_p99_ttft_ms"] == pytest.approx(50.0, abs=0.1)
        assert repeat["alone_short_p50_e2el_ms"] == pytest.approx(50 + 15 * 20, abs=0.1)
        assert repeat["short_p99_ttft_ms"] > 2_000, "who comes after a long prompt waits for it"
        assert repeat["short_p99_ttft_slowdown"] == pytest.approx(repeat["short_p99_ttft_ms"] / 50, rel=0.01)
        assert repeat["short_jain"] < 0.95
        assert repeat["short_requests"] == 32 and repeat["long_requests"] == 1
        assert "long_jain" not in repeat
        assert repeat["long_p50_ttft_slowdown"] == pytest.approx(1.0, abs=0.01)
        assert repeat["completed"] == 33
        assert not any(key.startswith("steady_") for key in repeat)
    found = outcome.last["summary"]["tp1/mix-off"]["short_p99_ttft_over_alone"]
    assert found["low"] > 1, "the interval excludes that nothing was lost"
    assert "off (no chunked prefill, budget 2304): beside long requests the short ones' p99 TTFT is" in outcome.out


def test_smoke_measures_on_and_off_on_the_smallest_plan(script: Script, world: MixedWorld, results: Path) -> None:
    outcome = script("--model", "qwen2-9m", "--results-dir", str(results))
    assert outcome.code == 0, outcome
    assert [case.id for case in the_result(results).cases] == ["tp1/mix-on", "tp1/mix-off"]
    on, off = world.settings
    assert (on.chunked_prefill, on.max_num_batched_tokens, on.max_model_len) == (True, 512, 2304)
    assert (off.chunked_prefill, off.max_num_batched_tokens, off.max_model_len) == (False, 2304, 2304)
    assert "tp1/mix-on over off" in outcome.last["summary"]


@pytest.mark.slow
def test_lab_measures_every_variant_and_only_priority_sends_priorities(
    script: Script, world: MixedWorld, results: Path
) -> None:
    outcome = script(*MODEL, "--preset", "lab", "--repeats", "1", "--results-dir", str(results))
    assert outcome.code == 0, outcome
    cases = {case.curve: case for case in the_result(results).cases}
    assert set(cases) == {"mix-on", "mix-off", "mix-control", "mix-threshold", "mix-priority"}
    assert len(world.starts) == 5 * 3 + 1, "and the first again at the end"
    control, threshold = (cases[name].engine["settings"] for name in ("mix-control", "mix-threshold"))
    assert (control["enable_chunked_prefill"], control["max_num_batched_tokens"]) == (True, 2304)
    assert threshold["long_prefill_token_threshold"] == 128
    assert all(check.passed for case in cases.values() for check in case.checks if "asked for" in check.name)
    for load in world.loads:
        by_priority = world.settings[load.engine - 1].scheduling_policy == "priority"
        expected = {("short", 0), ("long", 1 if by_priority else 0)}
        assert {(request.request_class, request.priority) for request in load.requests} <= expected


def test_a_variant_that_the_engine_ignored_is_a_failed_check_and_no_result(
    script: Script, world: MixedWorld, results: Path
) -> None:
    world.ignores = {"enable_chunked_prefill": True}
    outcome = script(*MODEL, "--results-dir", str(results))
    assert outcome.code == 1
    on, off = the_result(results).cases
    assert on.status == "ok" and on.repeats
    assert off.status == "failed" and not off.repeats
    assert off.error is not None and off.error.kind == "variant_ignored"
    assert [check.passed for check in off.checks] == [False]
    assert "enable_chunked_prefill is True and not False" in outcome.out
    assert not any("over" in key for key in outcome.last["summary"])


def test_failed_requests_are_shown_and_make_no_number(script: Script, world: MixedWorld, results: Path) -> None:
    """A long request that fails beside others: its tail is unknown, and the failure is counted and said."""
    world.fails = lambda name: name == "long" and len(world.parts[-1]) == 2
    outcome = script(*MODEL, "--variants", "off", "--results-dir", str(results))
    (case,) = the_result(results).cases
    assert [repeat["long_failed"] for repeat in case.repeats] == [1.0] * 3
    assert not any("long_p99_ttft_ms" in repeat for repeat in case.repeats)
    assert "failed_requests" in case.flags
    assert "3 requests failed" in outcome.out


def test_a_class_whose_every_request_fails_alone_fails_the_case(
    script: Script, world: MixedWorld, results: Path
) -> None:
    world.fails = lambda name: name == "long"
    outcome = script(*MODEL, "--variants", "off", "--results-dir", str(results))
    assert outcome.code == 1
    (case,) = the_result(results).cases
    assert case.status == "failed" and not case.repeats
    assert case.error is not None and case.error.kind == "all_requests_failed"


def test_interrupted_in_the_middle_of_a_repeat_it_is_resumed_whole(
    script: Script, world: MixedWorld, results: Path
) -> None:
    world.incidents[4] = "interrupt"
    arguments = (*MODEL, "--repeats", "2", "--results-dir", str(results))
    assert script(*arguments).code == 130
    assert not the_result(results).cases, "half a case is none"
    world.incidents.clear()
    assert script(*arguments).code == 0
    assert [len(case.repeats) for case in the_result(results).cases] == [2, 2]


def test_a_part_that_the_client_spoilt_is_measured_again_with_all_the_others(
    script: Script, world: MixedWorld, results: Path
) -> None:
    """A comparison of parts that were measured at different times would not be one."""
    world.late_s = {0: 0.04}
    outcome = script(*MODEL, "--variants", "on", "--repeats", "1", "--results-dir", str(results))
    assert outcome.code == 0, outcome
    (case,) = the_result(results).cases
    assert len(world.parts) == 6 and len(case.repeats) == 1
    assert "measured_again" in case.flags
    assert case.client is not None and case.client.word == "VALID"


def test_a_part_that_stays_spoilt_is_held_against_the_client(script: Script, world: MixedWorld, results: Path) -> None:
    """Also where it is one alone: the others are held against it."""
    world.late_s = {0: 0.04, 3: 0.04, 6: 0.04}
    outcome = script(*MODEL, "--variants", "on", "--repeats", "1", "--results-dir", str(results))
    (case,) = the_result(results).cases
    assert len(world.parts) == 9
    assert case.repeats[0]["p99_lateness_ms"] == pytest.approx(40.0, abs=0.1)
    assert case.client is not None and case.client.word != "VALID", "40 ms, of a part whose first tokens take 50 ms"
    assert "The client is" in outcome.out


def test_every_part_is_kept(script: Script, world: MixedWorld, results: Path) -> None:
    outcome = script(*MODEL, "--variants", "on", "--repeats", "1", "--results-dir", str(results))
    folder = files.ResultPaths(Path(outcome.last["result"])).requests
    kept = {path.name: load_requests(path) for path in folder.glob("*.parquet")}
    assert {name: len(records) for name, records in kept.items()} == {
        "tp1-mix-on-start0-repeat0.parquet": 33,
        "tp1-mix-on-alone-short-start0-repeat0.parquet": 32,
        "tp1-mix-on-alone-long-start0-repeat0.parquet": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "100"), "--budget 100: at least 256 is needed"),
        (("--long-tokens", "2047"), "a long prompt is at least 4 times the budget, here 2048"),
        (("--long-tokens", "5000"), "need a context of 5120 tokens and qwen2-9m has 4096"),
        (("--short-tokens", "0"), "--short-tokens 0: at least 1"),
        (("--long-requests", "-1"), "--long-requests -1: at least 1"),
        (("--seconds", "0"), "--seconds 0: a number above 0 and below"),
        (("--short-rate", "nan"), "--short-rate nan: a number above 0"),
        (("--variants",), "--variants needs at least one of on, off"),
        (("--variants", "sometimes"), "--variants"),
        (("--workload", "/dev/null"), "sends requests of its own: leave --workload out"),
    ],
)
def test_bad_input_is_one_line(script: Script, arguments: tuple[str, ...], words: str, results: Path) -> None:
    outcome = script("--model", "qwen2-9m", *arguments, "--results-dir", str(results))
    assert words in outcome.refusal()
    assert not results.exists()


def test_the_warm_up_has_a_request_of_each_class() -> None:
    made = SPEC._warm_up(4, 2, seed=5)
    assert [request.request_class for request in made].count("long") == 1
    assert len(made) == 4 and {request.output_tokens for request in made} == {2}
    assert [request.index for request in made] == [0, 1, 2, 3]


def test_an_estimate_grows_with_what_is_asked() -> None:
    shape = ModelShape(256, 1024, 8, 8, 4, 32, 10_240, 4096, True, 0, 0, "bfloat16")
    roofline = Roofline(shape, "cpu")
    seconds = SPEC.seconds(roofline)
    assert seconds > 2 * 2 * 8.0 * 15 / 17, "two repeats, each with the short ones alone and both together"
    assert replace(SPEC, repeats=4).seconds(roofline) > 1.8 * seconds
    many = replace(SPEC, workload=MixedWorkload((SHORT, replace(LONG, requests=200)), 8.0))
    assert many.seconds(roofline) > 2 * seconds, "requests that come too fast are worked off later"


def test_words_for_a_dry_run() -> None:
    words = "16 short (8 in / 8 out) and 1 long (1024 in / 4 out) in 8 s, each alone and together"
    assert SPEC.in_words() == words
    assert (SPEC.id, SPEC.context_tokens, SPEC.streams) == ("tp1/mix-off", 1028, [])


def test_what_an_engine_runs_is_held_against_what_was_asked() -> None:
    asked = {"chunked_prefill": False, "max_num_batched_tokens": 2304, "eager": True}
    right = {"enable_chunked_prefill": False, "max_num_batched_tokens": 2304}
    assert runs_as_asked(asked, right).passed is True
    assert runs_as_asked(asked, {**right, "max_num_batched_tokens": 4096}).passed is False
    unknown = runs_as_asked(asked, {"max_num_batched_tokens": 2304})
    assert unknown.passed is None and "enable_chunked_prefill" in unknown.detail
