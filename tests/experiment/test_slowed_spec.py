"""week5/explain_loss.py in this process, with a world whose all-reduces cost what they are told to."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from common.store import files
from common.store.schema import Case, Result
from tests.experiment.fakes import KILLED, World
from tests.experiment.script import Script, load_script

WORDS = ("--model", "qwen2-9m", "--tp", "1", "2", "--concurrency", "4", "--repeats", "3", "--delay-us", "1000")
PLAIN_S, ALL_REDUCES = 1 / 200, 9  # a token's time at four streams; two for each of four layers, one for the embedding


@pytest.fixture(scope="module")
def script_module() -> ModuleType:
    return load_script("explain_loss")


@pytest.fixture
def delays(world: World) -> list[float]:
    """What each load, warm-ups left out, was delayed by; the delay costs what it is."""
    seen: list[float] = []

    def rate(plan: str, concurrency: int) -> float:
        delay_us = world.engine.delay_us if world.engine is not None else 0.0
        if not world.loads[-1].is_warm_up:
            seen.append(delay_us)
        per_token_s = PLAIN_S * (1.5 if plan == "tp1" else 1) + ALL_REDUCES * delay_us / 1e6 / concurrency
        return 1 / per_token_s

    world.rate = rate
    return seen


def the_result(results: Path) -> Result:
    (path,) = (results / "explain_loss").glob("*.json")
    return files.load(path)


def slowed(result: Result) -> Case:
    return next(case for case in result.cases if case.id == "tp2/slowed/c4")


def test_with_and_without_take_turns_on_one_engine(
    script: Script, world: World, delays: list[float], tmp_path: Path
) -> None:
    outcome = script(*WORDS, "--results-dir", str(tmp_path))
    assert outcome.code == 0, outcome
    assert [plan for plan, _ in world.starts] == ["tp1", "tp2"]
    fixed, pairs = delays[:6], delays[6:]
    assert fixed == [0] * 6
    assert pairs == [1000, 2000, 2000, 1000, 1000, 2000], "the order is turned round"
    assert world.measured[-1].requests == world.measured[-2].requests, "the same prompts"
    case = slowed(the_result(tmp_path))
    before, slower = (1 / (PLAIN_S + ALL_REDUCES * wait_s / 4) for wait_s in (1e-3, 2e-3))
    assert [repeat["before_output_throughput"] for repeat in case.repeats] == pytest.approx([before] * 3)
    assert [repeat["output_throughput"] for repeat in case.repeats] == pytest.approx([slower] * 3)
    for half, wait_s in (("all_reduce_before", 1.01e-3), ("all_reduce", 2.01e-3)):
        assert case.engine["all_reduce_wait_us"][half] == pytest.approx(1e6 * wait_s - 10)
        (timed,) = case.engine[half]
        assert timed["tokens"] == 4 and timed["seconds"] == pytest.approx(wait_s)


@pytest.mark.parametrize("incident", ["die", "fail all"])
def test_an_engine_that_fails_while_it_is_slowed_is_let_go(
    incident: str, script: Script, world: World, delays: list[float], tmp_path: Path
) -> None:
    """The seventh load is the first half of the first pair, the eighth the slowed one."""
    world.incidents[7] = incident
    outcome = script(*WORDS, "--results-dir", str(tmp_path))
    assert outcome.code == 1
    assert delays[-1] == 2000
    case = slowed(the_result(tmp_path))
    assert case.status == "failed" and case.error is not None
    assert (case.error.kind == KILLED.kind) == (incident == "die")
    assert world.ended_with_delay_us == [0.0, 0.0]


def test_of_more_sizes_the_largest_that_fits_is_split(script: Script, tmp_path: Path) -> None:
    outcome = script(*WORDS[:2], "--tp", "1", "2", "4", *WORDS[5:], "--dry-run", "--results-dir", str(tmp_path))
    assert outcome.code == 0, outcome
    assert "tp2/slowed/c4" in outcome.out and "tp4/fixed/c4" in outcome.out and "tp4/slowed" in outcome.out
    assert outcome.last["summary"]["engine_starts"] == 2
