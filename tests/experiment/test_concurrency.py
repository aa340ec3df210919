"""The concurrency experiment from a command line to an exit code, with fake engines whose rates are planted."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.plan import ParallelPlan
from common.experiment.open_loops import check_open_loops, open_loops, requests_at
from common.experiment.options import InputError
from common.experiment.slo import parse_slo
from common.experiment.words import Words
from common.store import files
from common.store.requests import load_requests
from common.store.schema import Case, Result
from tests.experiment.fakes import World
from tests.experiment.script import Script, load_script

SMALL = ("--model", "qwen2-9m", "--tp", "1", "2")


@pytest.fixture(scope="session")
def script_module() -> ModuleType:
    return load_script("simulate_concurrent_requests")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_result(results: Path) -> Result:
    (path,) = (results / "simulate_concurrent_requests").glob("*.json")
    return files.load(path)


def case(result: Result, name: str) -> Case:
    return next(case for case in result.cases if case.id == name)


def test_a_whole_run(script: Script, world: World, results: Path) -> None:
    """X(n) = 17 n / (16 + n) times 50: power, X squared over n, is largest at 16 (as in tests/core)."""
    world.rate = lambda plan, clients: 50.0 * 17 * clients / (16 + clients)
    outcome = script(*SMALL, "--results-dir", str(results))
    assert outcome.code == 0, outcome
    result = the_result(results)
    names = [*(f"closed/c{clients}" for clients in (1, 4, 16, 32)), "batch/n16"]
    expected = [f"tp{n}/{name}" for n in (1, 2) for name in names]
    assert [case.id for case in result.cases] == [*expected[:5], "tp1/batch-offline/n16", *expected[5:]]
    assert [settings.offline for settings in world.settings] == [False, True, False], (
        "one engine start per plan and way"
    )
    assert outcome.last["summary"]["tp1/knee"] == {"load": 16, "resolved": True, "between": [16, 16]}
    repeat = case(result, "tp1/closed/c4").repeats[0]
    assert repeat["slo_ttft_ms"] == 1000 and repeat["slo_tpot_ms"] == 100 and "good_fraction" in repeat
    assert "tp1: the knee is at 16 streams" in outcome.out


def test_a_batch_is_measured_in_turns_and_compared_in_pairs(script: Script, world: World, results: Path) -> None:
    world.rate = lambda plan, clients: 100.0 if clients == 16 else 120.0
    outcome = script(*SMALL, "--concurrency", "2", "--results-dir", str(results))
    found = case(the_result(results), "tp1/batch/n16")
    assert [repeat["batch_first"] for repeat in found.repeats] == [0, 1, 0, 1]
    for repeat in found.repeats:
        assert repeat["output_throughput"] == pytest.approx(100, rel=1e-3)
        assert repeat["batch_output_throughput"] == pytest.approx(120, rel=1e-3)
        assert repeat["batch_total_output_tokens"] == repeat["total_output_tokens"] == 16 * 32
    loads = [load for load in world.loads if load.plan == "tp1" and load.requests[0].output_tokens == 32]
    of_batch = [load for load in loads if load.requests[0].batch]
    singles = [load for load in loads if load.arrivals == ClosedLoop(16) and len(load.requests) == 16]
    assert [list(load.requests[0].batch) for load in of_batch] == [load.prompts for load in singles], "the same prompts"
    assert outcome.last["summary"]["tp1/batch/n16"]["gain"] == pytest.approx(1.2, rel=1e-3)
    kept = sorted(path.name for path in results.rglob("tp1-batch-n16-batch-*.parquet"))
    assert len(kept) == 4 and load_requests(next(results.rglob(kept[0])))[0].requested_tokens == 16 * 32


def test_an_offline_batch_holds_the_same_prompts_and_is_compared_with_the_singles(
    script: Script, world: World, results: Path
) -> None:
    world.rate = lambda plan, clients: 130.0 if plan.endswith("offline") else 100.0
    outcome = script(*SMALL, "--concurrency", "2", "--results-dir", str(results))
    found = case(the_result(results), "tp1/batch-offline/n16")
    for repeat in found.repeats:
        assert repeat["output_throughput"] == pytest.approx(130) and repeat["total_output_tokens"] == 16 * 32
        assert repeat["preemptions"] == 0, "as the engine counts"
    assert found.client is None, "no client measured it"
    loads = [load for load in world.loads if load.plan == "tp1" and load.arrivals == ClosedLoop(16)]
    singles = [load.prompts for load in loads if load.requests[0].output_tokens == 32]
    warm_up, *calls = world.calls
    assert [prompts for _, prompts, _ in calls] == singles[-4:], "the same prompts"
    assert warm_up[2] == [24] * 16 and not set(warm_up[1]) & set(calls[0][1])
    assert outcome.last["summary"]["tp1/batch-offline/n16"]["gain"] == pytest.approx(1.3, rel=1e-3)
    assert "tp1: one offline batch with 16 prompts gives 1.30 [" in outcome.out
    assert "The offline batch has an engine start of its own" in outcome.out


def test_offline_batches_in_lab_are_of_every_plan_and_can_be_left_out(script: Script, world: World) -> None:
    assert "tp2/batch-offline/n32" in script(*SMALL, "--preset", "lab", "--dry-run").out
    assert "batch-offline" not in script(*SMALL, "--preset", "lab", "--no-offline", "--dry-run").out


def test_an_offline_engine_that_dies_fails_its_case_alone(script: Script, world: World, results: Path) -> None:
    world.offline_dies = True
    assert script(*SMALL, "--concurrency", "2", "--results-dir", str(results)).code == 1
    states = {case.id: case.status for case in the_result(results).cases}
    assert states.pop("tp1/batch-offline/n16") == "failed"
    assert set(states.values()) == {"ok"}


def test_what_comes_by_the_clock(script: Script, world: World, results: Path) -> None:
    words = ("--rate", "8", "4", "--burstiness", "0.5", "--concurrency", "2", "--requests", "40")
    outcome = script(*SMALL, *words, "--results-dir", str(results))
    assert outcome.code == 0, outcome
    result = the_result(results)
    assert case(result, "tp1/open/r4").arrivals == OpenLoop(4.0, 0.5)
    assert case(result, "tp2/open/r8").repeats[0]["num_prompts"] == 40
    assert "4/s" in outcome.out


def test_a_ramp_and_constant_gaps(script: Script, results: Path) -> None:
    words = ("--rate", "2", "--final-rate", "6", "--burstiness", "inf", "--concurrency", "2")
    assert script(*SMALL, *words, "--results-dir", str(results)).code == 0
    assert case(the_result(results), "tp1/open/r2-6").arrivals == OpenLoop(2.0, None, 6.0)


def test_an_engine_that_dies_fails_its_case_alone(script: Script, world: World, results: Path) -> None:
    world.incidents[0] = "die"
    outcome = script(*SMALL, "--concurrency", "2", "--results-dir", str(results))
    assert outcome.code == 1
    states = {case.id: case.status for case in the_result(results).cases}
    assert states["tp1/closed/c2"] == "failed"
    assert [states[name] for name in ("tp1/batch/n16", "tp2/closed/c2", "tp2/batch/n16")] == ["ok"] * 3


@pytest.mark.slow
def test_a_dry_run_lists_everything_in_at_most_four_starts_and_five_minutes(script: Script) -> None:
    outcome = script("--model", "qwen2-126m", "--dry-run")
    assert outcome.code == 0
    assert outcome.last["summary"]["engine_starts"] <= 4 and outcome.last["summary"]["minutes"] <= 5
    assert "16 prompts as one request and as singles" in outcome.out


@pytest.mark.parametrize("words", ["ttft:500 tpot:50", "tpot:50 ttft:500.0", "ttft=500,tpot=50", "ttft=500, tpot:50"])
def test_limits_in_one_word_or_several(words: str) -> None:
    assert parse_slo([words]) == parse_slo(words.split()) == {"ttft": 500.0, "tpot": 50.0}


NO_LIMITS = ("", "ttft", "ttft:", "ttft:x", "ttft:inf", "ttft:0", "itl:5", "ttft:5 ttft:6", "ttft=5=6", "ttft=nan", ",")


@pytest.mark.parametrize("words", NO_LIMITS)
def test_what_is_no_limit(words: str) -> None:
    with pytest.raises(InputError, match="--slo"):
        parse_slo([words])


def test_open_loops_are_listed_once_and_ascend() -> None:
    assert open_loops((4.0, 2.0, 4.0), 1.0, None) == [OpenLoop(2.0), OpenLoop(4.0)]
    assert requests_at(OpenLoop(1.0, 1.0, 9.0), 10.0) == 50
    assert requests_at(OpenLoop(0.1), 10.0) == 32, "fewer have no steady window"


def test_a_rate_that_is_no_number_is_one_line(script: Script) -> None:
    assert script(*SMALL, "--rate", "1", "x").refusal() == "error: --rate 1 x: it does not take that. See --help"


@pytest.mark.parametrize("rates", [(-1.0,), (float("inf"),), (1e9,)])
def test_rates_that_make_no_sense(rates: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="--rate"):
        check_open_loops(rates, 1.0, None)


def test_words_are_as_many_as_asked_and_never_the_same() -> None:
    words = Words(12, 5, salt=3)
    made = [request.prompt for seed in (0, 1) for request in words.generate(50, seed)]
    made += [request.prompt for request in Words(12, 5, salt=1_000).generate(50, 0)]
    assert all(isinstance(prompt, str) and len(prompt.split()) == 12 for prompt in made)
    assert len(set(made)) == 150
    assert [one.prompt for one in words.generate(5, 0)] == [one.prompt for one in words.generate(5, 0)]
    assert words.described(9).seed == 3


def test_a_plan_of_one_engine_is_one_configuration(script_module: ModuleType) -> None:
    from common.experiment.batch_spec import BatchSpec
    from common.experiment.load_spec import Lengths, LoadSpec

    plan, lengths = ParallelPlan(tp=2), Lengths(8, 8, 10_000)
    assert BatchSpec(plan, 4, lengths, 2).configuration == LoadSpec(plan, "closed", 1, lengths, 1, 1).configuration


def test_queueing_is_the_rise_of_the_servers_own_histogram() -> None:
    from common.experiment.repeat import QUEUED, QUEUED_S, ServerState, _queueing

    before = ServerState(0.0, {QUEUED_S: 10.0, QUEUED: 100.0}, [])
    after = ServerState(1.0, {QUEUED_S: 10.5, QUEUED: 110.0}, [])
    found = _queueing(before, after, [0.0, 6.0, 3.0])
    assert found == {"mean_queue_ms": pytest.approx(50), "mean_requests_waiting": 3, "max_requests_waiting": 6}
    assert _queueing(before, before, []) == {}, "nobody came"
    assert _queueing(ServerState(0.0, {}, []), after, []) == {}, "what it had counted before is not this repeat's"
