"""The sweep behind the seam: what is measured in which order, what is saved, and what survives what."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.workload import Workload
from common.engines.failures import EngineError, Failure
from common.engines.settings import EngineSettings
from common.experiment.budget import Budget, Todo
from common.experiment.events import CaseDone, EngineGone, EngineReady, EngineStarting, Event, RepeatDone
from common.experiment.load_spec import Lengths, LoadSpec, Saturate
from common.experiment.spec import order_of_starts
from common.experiment.sweep import Sweep
from common.store import files
from common.store.files import ResultPaths
from common.store.requests import load_requests
from common.store.schema import Case, Result
from tests.experiment.fakes import KILLED, MACHINE, REFUSED, FakeEngine, World
from tests.experiment.test_estimate import ROOFLINE

LENGTHS = Lengths(input_tokens=8, output_tokens=4, vocab_size=10_240)
TP1, TP2, TP4 = ParallelPlan(), ParallelPlan(tp=2), ParallelPlan(tp=4)
SETTINGS = EngineSettings("/m", "m")
REPEATS = 3


def spec(plan: ParallelPlan, load: int | Saturate = 2, curve: str = "fixed") -> LoadSpec:
    return LoadSpec(plan, curve, load, LENGTHS, turns=3, repeats=REPEATS)


FOUR = [spec(TP1, 1), spec(TP1, 4), spec(TP2, 1), spec(TP2, 4)]


@dataclass
class Trial:
    """A sweep in a folder; `again` is what a new process would do with the file that is there."""

    world: World
    path: Path
    events: list[Event] = field(default_factory=list)
    also: Callable[[Event], None] = lambda event: None
    starts: int = 1
    repeat_base_last: bool = False
    seed: int = 0
    budget: Budget | None = None

    def watch(self, event: Event) -> None:
        self.events.append(event)
        self.also(event)

    def run(self, specs: Sequence[LoadSpec], result: Result | None = None) -> Result:
        result = result or Result("benchmark_scaling", 1, "run", "key", [], {"model": "m"}, {})
        sweep = Sweep(
            self.world,
            MACHINE,
            SETTINGS,
            result,
            ResultPaths(self.path),
            self.watch,
            self.seed,
            self.starts,
            self.repeat_base_last,
            budget=self.budget,
        )
        sweep.run(specs)
        return self.saved()

    def again(self, specs: Sequence[LoadSpec]) -> Result:
        self.world.incidents.clear()
        return self.run(specs, replace(self.saved(), status="running"))

    def saved(self) -> Result:
        return files.load(self.path)

    def states(self) -> dict[str, str]:
        return {case.id: case.status for case in self.saved().cases}


@pytest.fixture
def trial(world: World, tmp_path: Path) -> Trial:
    return Trial(world, tmp_path / "result.json")


def labels(case: Case) -> list[tuple[float, float]]:
    return [(repeat["start"], repeat["repeat"]) for repeat in case.repeats]


# --- order and content


def test_each_plan_is_started_once_and_ended(trial: Trial) -> None:
    result = trial.run(FOUR)
    assert trial.world.starts == [("tp1", (0,)), ("tp2", (0, 1))]
    assert trial.world.stops == ["tp1", "tp2"]
    assert [case.id for case in result.cases] == ["tp1/fixed/c1", "tp1/fixed/c4", "tp2/fixed/c1", "tp2/fixed/c4"]
    assert set(trial.states().values()) == {"ok"}
    assert result.status == "complete"
    assert all(labels(case) == [(0, 0), (0, 1), (0, 2)] for case in result.cases)


def test_plans_get_the_same_settings(trial: Trial) -> None:
    trial.run(FOUR)
    assert trial.world.settings == [SETTINGS, SETTINGS]


def test_events_tell_the_story_in_order(trial: Trial) -> None:
    trial.run([spec(TP1)])
    told = [type(event) for event in trial.events if isinstance(event, (EngineStarting, EngineReady, RepeatDone))]
    assert told == [EngineStarting, EngineReady, RepeatDone, RepeatDone, RepeatDone]
    assert isinstance(trial.events[-2], CaseDone)
    assert trial.events[-1] == EngineGone(TP1, clean=True)


def test_all_reduces_are_profiled_after_every_case_of_the_engine(trial: Trial) -> None:
    result = trial.run(FOUR)
    loads = [load.plan for load in trial.world.loads]
    assert trial.world.traced_after_loads == [loads.count("tp1"), len(loads)]
    traced = [case.engine.get("all_reduce_traced") for case in files.load(trial.path).cases]
    assert traced == [None, None, *[{"streams": 16, "share": 0.1, "all_reduce_s": 0.05, "span_s": 0.5}] * 2]
    assert result.status == "complete"


class OnlyStarts(Budget):
    """Time for an engine's start, and none left for a case once it is up."""

    def affords(self, todo: Todo, running: Todo | None) -> bool:
        return running is None


def test_an_engine_whose_cases_are_all_left_out_is_not_profiled(trial: Trial) -> None:
    trial.budget = OnlyStarts(60.0, ROOFLINE)
    result = trial.run(FOUR)
    assert {case.status for case in result.cases} == {"skipped"} and len(trial.world.starts) == 2
    assert trial.world.traced_after_loads == []


def test_every_case_is_on_disk_before_it_is_announced(trial: Trial) -> None:
    seen: list[tuple[str, list[str]]] = []

    def look(event: Event) -> None:
        if isinstance(event, CaseDone):
            seen.append((event.case.id, [case.id for case in trial.saved().cases if len(case.repeats) == REPEATS]))
            assert trial.saved().status == "running"

    trial.also = look
    trial.run(FOUR)
    assert [case_id for case_id, _ in seen] == [spec.id for spec in FOUR]
    for count, (case_id, on_disk) in enumerate(seen, start=1):
        assert on_disk[-1] == case_id
        assert len(on_disk) == count


def test_throughput_is_the_planted_one(trial: Trial) -> None:
    trial.world.rate = lambda plan, concurrency: {"tp1": 100.0, "tp2": 145.0}[plan]
    for case in trial.run(FOUR).cases:
        expected = 100.0 if case.plan == TP1 else 145.0
        assert [repeat["output_throughput"] for repeat in case.repeats] == pytest.approx([expected] * 3, rel=1e-6)
        assert case.engine["version"] == "0.32.0"


def test_per_request_records_lie_beside_it(trial: Trial) -> None:
    result = trial.run([spec(TP1, 2), spec(TP2, 2)])
    found = sorted(path.name for path in ResultPaths(trial.path).requests.iterdir())
    assert found == sorted(f"tp{tp}-fixed-c2-start0-repeat{repeat}.parquet" for tp in (1, 2) for repeat in range(3))
    records = load_requests(ResultPaths(trial.path).requests / found[0])
    assert len(records) == result.cases[0].workload.requests == 6
    assert all(record.ok for record in records)
    assert (ResultPaths(trial.path).bench / "summary.json").exists()


def test_lab_interleaves_the_plans_and_repeats_the_base_last(trial: Trial) -> None:
    trial.starts, trial.repeat_base_last = 3, True
    result = trial.run([spec(TP1), spec(TP2)])
    assert [plan for plan, _ in trial.world.starts] == ["tp1", "tp2", "tp2", "tp1", "tp1", "tp2", "tp1"]
    base, other = result.cases
    assert sorted({start for start, _ in labels(base)}) == [0, 1, 2, 3]
    assert sorted({start for start, _ in labels(other)}) == [0, 1, 2]
    assert len(base.repeats) == 4 * REPEATS


@pytest.mark.parametrize("starts", [1, 2, 3, 5])
def test_every_plan_gets_every_start_and_none_is_always_first(starts: int) -> None:
    plans = [TP1, TP2, TP4]
    order = order_of_starts(plans, starts)
    assert sorted(order) == sorted((start, plan) for start in range(starts) for plan in plans)
    firsts = {
        plan for start in range(starts) for at, plan in order if (at, plan) == next(p for p in order if p[0] == start)
    }
    assert len(firsts) == min(2, starts)


def test_no_cases_start_no_engine(trial: Trial) -> None:
    assert trial.run([]).status == "complete"
    assert trial.world.starts == []


# --- workloads


def test_plans_get_the_same_prompts_and_repeats_get_others(trial: Trial) -> None:
    trial.starts = 2
    trial.run([spec(TP1, 4), spec(TP2, 4)])
    by_plan = {plan: [load.prompts for load in trial.world.measured if load.plan == plan] for plan in ("tp1", "tp2")}
    assert len(by_plan["tp1"]) == 2 * REPEATS
    assert sorted(by_plan["tp1"]) == sorted(by_plan["tp2"]), "the same work"
    seen = [prompt for prompts in by_plan["tp1"] for prompt in prompts]
    assert len(set(seen)) == len(seen), "no repeat finds its own prompts in a cache"


def test_warm_up_fills_the_batch_with_prompts_that_no_repeat_uses(trial: Trial) -> None:
    trial.run([spec(TP1, 4)])
    (warm_up,) = [load for load in trial.world.loads if load.is_warm_up]
    assert trial.world.loads[0] is warm_up
    assert len(warm_up.prompts) == 4
    measured = {prompt for load in trial.world.measured for prompt in load.prompts}
    assert measured.isdisjoint(warm_up.prompts)


def test_the_seed_chooses_the_prompts(trial: Trial, tmp_path: Path) -> None:
    trial.run([spec(TP1)])
    first = [load.prompts for load in trial.world.measured]
    other = Trial(trial.world, tmp_path / "other.json", seed=50_000)
    other.run([spec(TP1)])
    second = [load.prompts for load in trial.world.measured][len(first) :]
    assert not {p for prompts in first for p in prompts} & {p for prompts in second for p in prompts}


def test_a_slot_gets_its_turns(trial: Trial) -> None:
    (case,) = trial.run([spec(TP1, 5)]).cases
    assert case.arrivals == ClosedLoop(5)
    assert case.workload.requests == 15
    assert all(len(load.prompts) == 15 for load in trial.world.measured)


# --- devices


def test_more_ranks_than_devices_share_them_in_turn(trial: Trial) -> None:
    trial.run([spec(TP4), spec(ParallelPlan(tp=2, replicas=2))])
    assert trial.world.starts == [("tp4", (0, 1, 0, 1)), ("tp2x2", (0, 1, 0, 1))]


def test_flags_of_a_case_are_kept(trial: Trial) -> None:
    (case,) = trial.run([replace(spec(TP4), flags=("oversubscribed",))]).cases
    assert case.flags == ["oversubscribed"]


# --- resuming


@pytest.mark.parametrize("at", range(len(FOUR) * REPEATS))
def test_interrupted_anywhere_it_resumes_to_the_same_result(trial: Trial, at: int) -> None:
    trial.world.incidents[at] = "interrupt"
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    before = trial.saved()
    assert before.status == "interrupted"
    assert trial.world.engine is None, "the engine is gone"
    done = [case for case in before.cases if len(case.repeats) == REPEATS]
    assert len(done) == at // REPEATS
    trial.world.loads.clear()
    after = trial.again(FOUR)
    assert after.status == "complete"
    assert [case.id for case in after.cases] == [spec.id for spec in FOUR]
    assert after.cases[: len(done)] == done, "finished cases are not touched"
    assert len(trial.world.measured) == (len(FOUR) - len(done)) * REPEATS, "finished cases are not redone"
    for case in after.cases:
        assert labels(case) == [(0, 0), (0, 1), (0, 2)], "repeats of one case under one start stem from one engine"


def test_an_interrupted_result_calls_nothing_ok_that_was_not_measured(trial: Trial) -> None:
    trial.world.incidents[REPEATS] = "interrupt"
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    unmeasured = [case.id for case in trial.saved().cases if case.status == "ok" and len(case.repeats) < REPEATS]
    assert unmeasured == []


def test_a_finished_plan_is_not_even_started_again(trial: Trial) -> None:
    trial.world.incidents[2 * REPEATS] = "interrupt"
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    trial.world.starts.clear()
    trial.again(FOUR)
    assert [plan for plan, _ in trial.world.starts] == ["tp2"]


def test_lab_resumes_in_the_start_where_it_was(trial: Trial) -> None:
    trial.starts = 3
    trial.world.incidents[3 * REPEATS] = "interrupt"  # tp1 in start 1, after tp1, tp2 | tp2
    with pytest.raises(KeyboardInterrupt):
        trial.run([spec(TP1), spec(TP2)])
    trial.world.starts.clear()
    result = trial.again([spec(TP1), spec(TP2)])
    assert [plan for plan, _ in trial.world.starts] == ["tp1", "tp1", "tp2"]
    for case in result.cases:
        assert sorted(labels(case)) == [(start, repeat) for start in range(3) for repeat in range(REPEATS)]


def test_skipped_rows_stay_as_they_are(trial: Trial) -> None:
    skipped = spec(TP4).at(2)
    skipped.status = "skipped"
    result = Result("benchmark_scaling", 1, "run", "key", [], {"model": "m"}, {}, cases=[skipped])
    after = trial.run([spec(TP1), spec(TP4)], result)
    assert trial.states() == {"tp4/fixed/c2": "skipped", "tp1/fixed/c2": "ok"}
    assert after.cases[0].repeats == []
    assert [plan for plan, _ in trial.world.starts] == ["tp1"]


# --- engines that fail


def test_an_engine_that_dies_costs_its_case_and_no_other(trial: Trial) -> None:
    trial.world.incidents[1] = "die"  # second repeat of the first case
    result = trial.run(FOUR)
    assert trial.states() == {
        "tp1/fixed/c1": "failed",
        "tp1/fixed/c4": "ok",
        "tp2/fixed/c1": "ok",
        "tp2/fixed/c4": "ok",
    }
    error = result.cases[0].error
    assert error is not None
    assert (error.kind, error.message, error.remedy) == (
        KILLED.kind,
        f"{KILLED.message} (1 of 3 requests were answered)",
        KILLED.advice,
    )
    assert [plan for plan, _ in trial.world.starts] == ["tp1", "tp1", "tp2"], "the next case runs on a new engine"
    assert trial.world.stops == ["tp1", "tp1", "tp2"], "a dead engine is ended and proven gone, too"
    engines = {load.engine for load in trial.world.measured if load.plan == "tp1" and load.concurrency == 4}
    assert engines == {2}
    assert result.status == "complete"


def test_an_engine_that_dies_in_its_last_case_is_not_started_again(trial: Trial) -> None:
    trial.world.incidents[REPEATS] = "die"
    trial.run(FOUR[:2])
    assert len(trial.world.starts) == 1


def test_an_engine_that_dies_in_every_case_is_started_once_for_each(trial: Trial) -> None:
    trial.world.incidents = dict.fromkeys(range(100), "die")
    trial.run(FOUR)
    assert set(trial.states().values()) == {"failed"}
    assert len(trial.world.starts) == len(FOUR)


def test_a_failed_case_is_saved_at_once(trial: Trial) -> None:
    trial.world.incidents = {0: "die", REPEATS: "interrupt"}
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    assert trial.states()["tp1/fixed/c1"] == "failed"


def test_a_failed_case_is_measured_afresh_when_resumed(trial: Trial) -> None:
    trial.world.incidents = {1: "die", 4: "interrupt"}
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    again = trial.again(FOUR)
    assert trial.states()["tp1/fixed/c1"] == "ok"
    case = next(case for case in again.cases if case.id == "tp1/fixed/c1")
    assert case.error is None
    assert labels(case) == [(0, 0), (0, 1), (0, 2)], "the dead engine's repeat is not mixed in"


def test_a_failure_under_one_start_is_not_forgotten_under_the_next(trial: Trial) -> None:
    trial.starts = 2
    trial.world.incidents[0] = "die"
    result = trial.run([spec(TP1)])
    (case,) = result.cases
    traces = [case.status, *case.flags, *result.warnings, *(check.detail for check in case.checks)]
    assert "failed" in traces or any("died" in trace for trace in traces)


def test_an_engine_that_does_not_start_fails_its_cases_once(trial: Trial) -> None:
    trial.world.refuses = {"tp1"}
    trial.starts = 3
    result = trial.run(FOUR)
    assert trial.world.refused == ["tp1"], "no endless retries"
    assert [plan for plan, _ in trial.world.starts] == ["tp2"] * 3
    assert trial.states() == {
        "tp1/fixed/c1": "failed",
        "tp1/fixed/c4": "failed",
        "tp2/fixed/c1": "ok",
        "tp2/fixed/c4": "ok",
    }
    assert [case.error.kind for case in result.cases if case.error] == [REFUSED.kind] * 2


def test_requests_that_all_fail_on_a_living_engine_fail_the_case_only(trial: Trial) -> None:
    trial.world.incidents[0] = "fail all"
    result = trial.run(FOUR[:2])
    assert trial.states() == {"tp1/fixed/c1": "failed", "tp1/fixed/c4": "ok"}
    error = result.cases[0].error
    assert error is not None
    assert error.kind == "all_requests_failed"
    assert "connection was closed" in error.message
    assert len(trial.world.starts) == 1, "the engine lives: no new one"


def test_some_failed_requests_are_counted_and_flagged(trial: Trial) -> None:
    trial.world.incidents = {0: "fail some", 2: "fail some"}
    (case,) = trial.run([spec(TP1)]).cases
    assert case.status == "ok"
    assert case.flags == ["failed_requests"]
    assert [repeat["failed"] for repeat in case.repeats] == [1, 0, 1]


def test_a_server_that_stops_answering_between_repeats_is_a_failed_row(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine died after the last answer: the next thing that notices is the question for its counters."""

    first: list[FakeEngine] = []

    def metrics(engine: FakeEngine) -> dict[str, float]:
        first.append(engine)
        if engine is first[0] and len(trial.world.measured) == 1:
            engine.dead = True
        if engine.dead:
            raise EngineError(Failure("no_answer", "/metrics did not answer: connection refused", ""))
        return {}

    monkeypatch.setattr(FakeEngine, "metrics", metrics)
    trial.run(FOUR)
    assert trial.states() == {
        "tp1/fixed/c1": "failed",
        "tp1/fixed/c4": "ok",
        "tp2/fixed/c1": "ok",
        "tp2/fixed/c4": "ok",
    }


def test_what_an_engine_leaves_behind_is_a_warning(trial: Trial) -> None:
    trial.world.gone = replace(trial.world.gone, processes_left=(4_711,))
    result = trial.run([spec(TP1)])
    assert any("4711" in warning for warning in result.warnings)
    assert EngineGone(TP1, clean=False) in trial.events


# --- Ctrl-C


@pytest.mark.parametrize("moment", [EngineStarting, EngineReady, RepeatDone, CaseDone])
def test_ctrl_c_at_any_moment_ends_the_engine_and_saves(trial: Trial, moment: type[Event]) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, moment):
            trial.also = lambda _: None
            raise KeyboardInterrupt

    trial.also = interrupt
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    assert trial.saved().status == "interrupted"
    assert trial.world.engine is None
    assert len(trial.world.stops) == len(trial.world.starts)


def test_a_second_ctrl_c_waits_for_the_clean_up(trial: Trial) -> None:
    trial.world.incidents[1] = "interrupt"
    trial.world.on_stop = lambda: os.kill(os.getpid(), signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trial.run(FOUR)
    assert trial.world.stops == ["tp1"]
    assert trial.saved().status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before, "afterwards Ctrl-C works as before"


# --- saturation


def saturating(plan: ParallelPlan = TP1, first: int = 4, limit: int = 64) -> LoadSpec:
    return LoadSpec(plan, "saturated", Saturate(first, limit), LENGTHS, turns=2, repeats=REPEATS)


@pytest.mark.parametrize(
    ("rates", "rung", "climbed"),
    [
        ({4: 100, 8: 190, 16: 300, 32: 305, 64: 900}, 16, [4, 8, 16, 32]),
        ({4: 100, 8: 102.9}, 4, [4, 8]),
        ({4: 100, 8: 103.2, 16: 104}, 8, [4, 8, 16]),
        ({4: 100, 8: 80}, 4, [4, 8]),
        ({4: 100, 8: 150, 16: 200, 32: 300, 64: 400}, 64, [4, 8, 16, 32, 64]),
    ],
)
def test_the_rung_before_the_gain_ends_is_chosen(
    trial: Trial, rates: dict[int, float], rung: int, climbed: list[int]
) -> None:
    trial.world.rate = lambda plan, concurrency: rates[concurrency]
    result = trial.run([saturating()])
    (case,) = [case for case in result.cases if case.curve == "saturated"]
    assert case.arrivals == ClosedLoop(rung)
    assert case.workload.requests == 2 * rung
    concurrencies = [load.concurrency for load in trial.world.measured]
    assert concurrencies == [*climbed, *[rung] * REPEATS]
    ladder = [case for case in result.cases if case.curve == "ladder"]
    assert [case.id for case in ladder] == [f"tp1/ladder/c{concurrency}" for concurrency in climbed]
    for step, concurrency in zip(ladder, climbed, strict=True):
        assert step.repeats[0]["output_throughput"] == pytest.approx(rates[concurrency], rel=1e-6)


def test_preemptions_end_the_climb(trial: Trial) -> None:
    trial.world.preempts = lambda plan, concurrency: 3 if concurrency >= 16 else 0
    result = trial.run([saturating()])
    (case,) = [case for case in result.cases if case.curve == "saturated"]
    assert case.arrivals == ClosedLoop(8), "more load would still pay, but not without preemptions"
    (last,) = [case for case in result.cases if case.id == "tp1/ladder/c16"]
    assert last.repeats[0]["preemptions"] == 3
    assert [repeat["preemptions"] for repeat in case.repeats] == [0, 0, 0]


@pytest.mark.parametrize(
    ("first", "limit", "rungs"), [(16, 64, [16, 32, 64]), (16, 100, [16, 32, 64]), (16, 8, [8]), (1, 1, [1])]
)
def test_rungs_double_up_to_the_limit(first: int, limit: int, rungs: list[int]) -> None:
    assert Saturate(first, limit).rungs() == rungs


def test_each_plan_saturates_at_its_own_load_and_later_starts_keep_it(trial: Trial) -> None:
    best = {"tp1": 8, "tp2": 32}
    trial.world.rate = lambda plan, concurrency: 10.0 * min(concurrency, best[plan])
    trial.starts = 2
    result = trial.run([saturating(TP1), saturating(TP2)])
    chosen = {str(case.plan): case.arrivals for case in result.cases if case.curve == "saturated"}
    assert chosen == {"tp1": ClosedLoop(8), "tp2": ClosedLoop(32)}
    climbs = [load for load in trial.world.measured if load.engine > 2 and load.concurrency != best[load.plan]]
    assert climbs == [], "one climb for each plan"


def test_interrupted_on_the_ladder_it_climbs_again(trial: Trial) -> None:
    trial.world.rate = lambda plan, concurrency: 10.0 * min(concurrency, 8)
    trial.world.incidents[2] = "interrupt"
    with pytest.raises(KeyboardInterrupt):
        trial.run([saturating()])
    result = trial.again([saturating()])
    ids = [case.id for case in result.cases]
    assert len(set(ids)) == len(ids), "no case stands there twice"
    (case,) = [case for case in result.cases if case.curve == "saturated"]
    assert case.arrivals == ClosedLoop(8)
    assert len(case.repeats) == REPEATS


def test_an_engine_that_dies_on_the_ladder_fails_the_case(trial: Trial) -> None:
    trial.world.incidents[1] = "die"
    trial.run([saturating(), spec(TP1, 2)])
    assert trial.states()["tp1/saturated"] == "failed"
    assert trial.states()["tp1/fixed/c2"] == "ok"


# --- doubt


@pytest.mark.parametrize(
    ("rates", "passed"),
    [([100, 100, 100], True), ([91, 100, 100], True), ([89, 100, 100], False), ([111, 100, 100], False)],
)
def test_a_first_repeat_far_from_the_others_is_doubted(trial: Trial, rates: list[float], passed: bool) -> None:
    trial.world.rate = lambda *_: rates[max(0, len(trial.world.measured) - 1)]
    (case,) = trial.run([spec(TP1)]).cases
    (check,) = case.checks
    assert check.name == "first repeat agrees"
    assert check.passed is passed
    assert f"{rates[0] / 100 - 1:+.1%}" in check.detail


def test_one_repeat_cannot_be_doubted(trial: Trial) -> None:
    (case,) = trial.run([replace(spec(TP1), repeats=1)]).cases
    assert case.checks == []


def test_the_check_is_made_inside_each_start(trial: Trial) -> None:
    """Starts may differ by more than repeats: the second start's first repeat is compared with its own."""
    trial.starts = 2
    trial.world.rate = lambda *_: 100.0 if len(trial.world.starts) == 1 else 150.0
    (case,) = trial.run([spec(TP1)]).cases
    assert [check.passed for check in case.checks] == [True]


# --- as many KV blocks as the base


PINNED = LoadSpec(TP2, "pinned", Saturate(2, 8), LENGTHS, turns=3, repeats=REPEATS, kv_like=TP1)


def test_a_pinned_case_has_an_engine_of_its_own_with_the_bases_blocks(trial: Trial) -> None:
    result = trial.run([spec(TP1), spec(TP2), spec(TP2, Saturate(2, 8), "saturated"), PINNED])
    assert [plan for plan, _ in trial.world.starts] == ["tp1", "tp2", "tp2"]
    assert [settings.num_gpu_blocks for settings in trial.world.settings] == [None, None, 65_536 // 128]
    ids = [case.id for case in result.cases]
    assert {"tp2/saturated", "tp2/pinned", "tp2/ladder/c2", "tp2/ladder-pinned/c2"} < set(ids)
    assert len(ids) == len(set(ids))
    assert set(trial.states().values()) == {"ok"}


def test_without_the_base_a_pinned_case_fails_and_says_why(trial: Trial) -> None:
    trial.world.refuses = {"tp1"}
    result = trial.run([spec(TP1), spec(TP2), PINNED])
    failed = next(case for case in result.cases if case.curve == "pinned")
    assert failed.status == "failed" and failed.error is not None
    assert failed.error.message == "the KV cache of tp1 is unknown, so it cannot be given to tp2"
    assert trial.states()["tp2/fixed/c2"] == "ok"


def test_resumed_the_pinned_case_still_knows_the_bases_blocks(trial: Trial) -> None:
    trial.world.incidents = {2 * REPEATS: "interrupt"}
    with pytest.raises(KeyboardInterrupt):
        trial.run([spec(TP1), spec(TP2), PINNED])
    trial.again([spec(TP1), spec(TP2), PINNED])
    assert trial.world.settings[-1].num_gpu_blocks == 65_536 // 128
    assert set(trial.states().values()) == {"ok"}


# --- staggered starts


def test_long_repeats_begin_staggered_and_short_ones_in_step() -> None:
    long = replace(spec(TP1, 4), turns=6)
    short, staggered = spec(TP1, 4).at(4), long.at(4)
    assert isinstance(short.workload, Workload) and isinstance(staggered.workload, Workload)
    assert (short.workload.staggered, staggered.workload.staggered) == (0, 4)
    rung = replace(long, curve="saturated", load=Saturate(4, 8)).rung(4)
    assert isinstance(rung.workload, Workload)
    assert (rung.workload.requests, rung.workload.staggered) == (8, 0)
    lengths = [request.output_tokens for request in staggered.workload.generate()]
    assert sorted(lengths[:4]) == [1, 2, 3, 4] and set(lengths[4:]) == {LENGTHS.output_tokens}
