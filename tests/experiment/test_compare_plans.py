"""The comparison of plans from a command line to an exit code, with fake engines whose rates are planted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from common.engines.reference_models import ensure_model
from common.experiment import prepare
from common.store import files
from common.store.schema import Result
from tests.experiment.fakes import MACHINE, SLICES, World
from tests.experiment.script import Script, load_script

SMALL = ("--model", "qwen2-9m")
MOE = "qwen3-moe-16m"


@pytest.fixture(scope="session")
def script_module(model_cache: Path) -> ModuleType:
    ensure_model(MOE, model_cache)
    return load_script("compare_parallel_plans")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_result(results: Path) -> Result:
    (path,) = (results / "compare_parallel_plans").glob("*.json")
    return files.load(path)


@pytest.mark.slow
def test_all_legal_plans_and_experts_on_a_model_that_has_some(script: Script, world: World, results: Path) -> None:
    outcome = script(*SMALL, "--results-dir", str(results), "--guess", "1.5")
    assert outcome.code == 0, outcome
    assert [plan for plan, _ in world.starts] == ["tp1", "pp2", "tp2", "tp1dp2", "tp1x2", "tp1", "tp2ep"]
    assert [settings.served_name for settings in world.settings] == ["qwen2-9m"] * 5 + [MOE] * 2
    assert MOE in world.settings[-1].model
    made = the_result(results)
    assert {case.model for case in made.cases} == {None, MOE}
    assert {case.curve for case in made.cases} == {"fixed", "weak"}
    assert made.config["other_models"][MOE]["num_experts"] == 8
    summary = outcome.last["summary"]
    assert summary["tp2/fixed/c16"]["speedup"] == pytest.approx(1.0)
    assert f"{MOE}/tp2ep/fixed/c16" in summary
    assert set(summary["recommended"]) == {"throughput", "memory", "development"}
    assert made.guess is not None
    assert made.guess.question == "How many times the tokens per second of pp2 will tp2 give at 16 streams?"
    assert "you guessed  1.5x" in outcome.out


@pytest.mark.slow
def test_only_the_goal_asked_for_is_recommended(script: Script, world: World, results: Path) -> None:
    world.rate = lambda plan, streams: streams * (90.0 if plan == "tp1x2" else 50.0)
    words = (*SMALL, "--plans", "tp1x2", "tp1", "tp1", "--goal", "throughput", "--results-dir", str(results))
    outcome = script(*words)
    assert outcome.code == 0, outcome
    assert [plan for plan, _ in world.starts] == ["tp1", "tp1x2"], "each once, the base first"
    assert "throughput: tp1x2: 1440 tok/s at 16 streams" in outcome.out
    assert "memory:" not in outcome.out


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_what_is_missing_whatever_the_goal(
    script: Script, world: World, results: Path
) -> None:
    words = (*SMALL, "--plans", "tp1", "tp2ep", "--results-dir", str(results))
    world.incidents = {20: "interrupt"}
    assert script(*words).code == 130
    assert the_result(results).status == "interrupted"
    measured = {case.id for case in the_result(results).cases if case.repeats}
    before = len(world.starts)
    assert script(*words, "--goal", "memory").code == 0
    assert the_result(results).status == "complete"
    assert measured and len(the_result(results).cases) == 9
    assert [plan for plan, _ in world.starts[before:]] == ["tp2ep"], "the others were done"


def test_lab_finds_each_plans_best_load_too(script: Script) -> None:
    outcome = script(*SMALL, "--plans", "tp1", "pp5+3", "--preset", "lab", "--dry-run")
    assert "pp5+3/saturated" in outcome.out
    assert outcome.last["summary"]["engine_starts"] == 7, "three of each, and the base once more"


def test_layers_as_vllm_chooses_them_are_not_another_plan(script: Script) -> None:
    outcome = script(*SMALL, "--plans", "pp2", "pp4+4", "--dry-run")
    assert outcome.last["summary"]["engine_starts"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plans"], "--plans needs at least one plan"),
        (["--plans", "two"], "'two' is not a plan; write tp2, tp2pp2"),
        (["--plans", "tp0"], "tp must be 1 or more, not 0"),
        (
            ["--plans", "tp1", "tp3"],
            r"tp3 does not divide this model \(8 attention heads, 4 KV heads\); nearest .*: tp2$",
        ),
        (
            ["--plans", "pp3"],
            r"pp3 does not divide this model's 8 layers .*pp3\+3\+2\); nearest .* 2 devices \(pp3 needs 3\): pp2",
        ),
        (["--plans", "pp5+4"], r"pp5\+4 has 9 layers, and this model 8"),
        (["--plans", "tp6pp3"], r"nearest that do on 2 devices \(tp6pp3 needs 18\): pp2, tp2"),
        (["--plans", "tp3ep"], r"nearest that do on 2 devices \(tp3ep needs 3\): tp2ep"),
        (["--plans", "tp2ep", "--moe-model", "qwen2-9m"], "--moe-model qwen2-9m has no experts to split"),
        (["--plans", "tp1", "--moe-model", MOE], "--moe-model: no plan here needs another model"),
        (["--model", MOE, "--moe-model", MOE], "--moe-model: no plan here needs another model"),
        (["--plans", "tp4"], "no plan can run here: tp4 needs 4 devices, this machine has 2"),
        (["--tp", "2"], "--tp names sizes of tensor parallelism alone"),
        (["--concurrency", "1000000"], "--concurrency 1000000: at most 16384 streams"),
        (["--concurrency", "0"], "--concurrency 0: at least 1"),
        (["--output-tokens", "-1"], "--output-tokens -1: at least 1"),
        (["--goal", "glory"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    script: Script, world: World, words: list[str], said: str
) -> None:
    assert re.search(said, script(*SMALL, *words).refusal())
    assert world.starts == []


def test_experts_beside_a_users_own_dense_model_need_a_name(script: Script, model_cache: Path, tmp_path: Path) -> None:
    (made,) = (model_cache / "models").glob("qwen2-9m-*")
    own = tmp_path / "mine"
    own.symlink_to(made)
    said = script("--model", str(own), "--plans", "tp2ep", "--dry-run").refusal()
    assert "splits experts, and" in said and "--moe-model" in said
    assert "ep" not in script("--model", str(own), "--dry-run").out.replace("repeats", "")


def test_plans_beyond_the_machine_and_what_cpus_cannot_do_are_skipped_rows(
    script: Script, world: World, results: Path
) -> None:
    words = ("--model", MOE, "--plans", "tp1", "tp4", "tp1dp2", "tp1dp2ep", "--results-dir", str(results))
    assert script(*words).code == 0
    assert [plan for plan, _ in world.starts] == ["tp1"]
    reasons = {str(case.plan): case.error.kind for case in the_result(results).cases if case.error}
    assert reasons == {"tp4": "too_few_devices", "tp1dp2": "no_expert_exchange", "tp1dp2ep": "no_expert_exchange"}


def test_four_devices_have_their_plans(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    four = replace(MACHINE, devices=(*SLICES, *(replace(one, index=one.index + 2) for one in SLICES)))
    monkeypatch.setattr(prepare, "find_machine", lambda *_: four)
    out = script(*SMALL, "--dry-run").out
    assert "tp2ep/" not in out, "by experts on all devices"
    for plan in ("tp4/", "tp2pp2/", "pp4/", "tp2dp2/", "tp1x4/", "tp2x2/", f"{MOE}/tp4ep/"):
        assert f"\n{plan}" in out
