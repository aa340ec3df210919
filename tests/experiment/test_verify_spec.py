"""The verification behind the seam: engines with planted answers and weights, the script as a user runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.analysis.verification.judgement import LIKE_BASE, LIKE_SERVED, WEIGHTS, plan_findings
from common.core.greedy import Answer
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.weight_split import rank_weight_bytes
from common.engines.settings import EngineSettings
from common.experiment import prepare, verify_spec
from common.experiment.load_spec import Lengths
from common.experiment.roofline import Roofline
from common.experiment.verify_spec import VerifySpec
from common.load.client import Endpoint
from common.load.control import ControlError
from common.load.generation import Batch
from common.machine.devices import Device
from common.store import files
from common.store.schema import Result
from tests.analysis.planted import SHAPE, TP1, TP2
from tests.experiment.fakes import FakeEngine, World, vllm_launcher
from tests.experiment.script import Outcome, Script, load_script

TINY = ModelShape.from_config(SHAPE)
MODEL = ("--model", "qwen2-9m")


@dataclass
class Planted(World):
    """Engines whose weights and answers are planted; `parts` makes an engine answer otherwise from a token on."""

    weights: Callable[[ParallelPlan], list[int]] = lambda plan: [round(rank_weight_bytes(TINY, plan.tp, 4))] * plan.tp
    parts: dict[tuple[str, bool], tuple[int, float]] = field(default_factory=dict)  # -> (place, gap in nats)
    silent: set[tuple[str, bool]] = field(default_factory=set)
    asked: list[tuple[str, bool, tuple[int, ...]]] = field(default_factory=list)
    interrupts_before: tuple[str, bool] | None = None

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> FakeEngine:
        if self.interrupts_before == (str(plan), settings.offline):
            self.interrupts_before = None
            raise KeyboardInterrupt
        engine = super().start(plan, devices, settings)
        resolved = {"dtype": "bfloat16" if settings.dtype == "auto" else settings.dtype}
        engine.facts = replace(engine.facts, weight_bytes_per_rank=self.weights(plan), settings=resolved)
        return engine

    async def complete(self, endpoint: Endpoint, prompt: Sequence[int], max_tokens: int, logprobs: int) -> Answer:
        return self.answer(endpoint.model, False, tuple(prompt), max_tokens)

    async def generate_offline(
        self, endpoint: Endpoint, prompts: Sequence[Sequence[int]], max_tokens: int, logprobs: int
    ) -> Batch:
        return Batch([self.answer(endpoint.model, True, tuple(prompt), max_tokens) for prompt in prompts], 0.1)

    def answer(self, plan: str, offline: bool, prompt: tuple[int, ...], tokens: int) -> Answer:
        """Tokens that depend on the prompt alone, but from where this engine was told to part."""
        self.asked.append((plan, offline, prompt))
        if (plan, offline) in self.silent:
            raise ControlError("http://127.0.0.1:1 did not answer: gone")
        place, gap = self.parts.get((plan, offline), (tokens, 0.0))
        steps = []
        for index in range(tokens):
            usual, other = 10 * prompt[index % len(prompt)], 10 * prompt[index % len(prompt)] + 1
            first, second = (usual, other) if index < place else (other, usual)
            steps.append(((first, -0.1), (second, -0.1 - (2.0 if index < place else gap))))
        return Answer(tuple(step[0][0] for step in steps), tuple(steps))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    made = Planted()
    monkeypatch.setattr(verify_spec, "complete", made.complete)
    monkeypatch.setattr(verify_spec, "generate_offline", made.generate_offline)
    return made


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load_script("test_tensor_parallel")


@pytest.fixture
def verify(
    module: ModuleType,
    script: Script,  # brings the machine, the model and the preflight of a run without vLLM
    planted: Planted,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., Outcome]:
    monkeypatch.setattr(prepare, "VllmLauncher", vllm_launcher(planted))
    runner = Script(module, monkeypatch, capsys)
    return lambda *arguments: runner(*MODEL, "--results-dir", str(tmp_path), *arguments)


def the_result(folder: Path) -> Result:
    (path,) = (folder / "test_tensor_parallel").glob("*.json")
    return files.load(path)


def spec(plan: ParallelPlan, offline: bool = False, **changed: Any) -> VerifySpec:  # noqa: ANN401
    return VerifySpec(plan, TP1, offline, TINY, Lengths(8, 6, 10_240), prompts=3, **changed)


def test_served_cases_share_the_engine_of_other_experiments() -> None:
    assert spec(TP2).configuration.changed == ()
    assert spec(TP2, True).configuration.changed == (("offline", True),)
    exact = spec(TP2, True, changed=(("dtype", "float32"),))
    assert exact.configuration.settings(EngineSettings("/m", "m")) == EngineSettings(
        "/m", "m", dtype="float32", offline=True
    )


def test_a_case_says_what_it_is() -> None:
    case = spec(TP2, True, flags=("host_shares_devices",)).unmeasured()
    assert (case.id, case.curve, case.flags) == ("tp2/verify/offline", "verify-offline", ["host_shares_devices"])
    assert case.workload.requests == 3
    assert spec(TP2).in_words() == "vllm serve, 3 prompts one by one, 8 in / 6 out"
    assert spec(TP2).seconds(Roofline(TINY, "cpu")) > 0
    assert spec(TP2).context_tokens == 14


def test_two_sizes_pass_and_the_third_is_not_tested(
    verify: Callable[..., Outcome], planted: Planted, tmp_path: Path
) -> None:
    outcome = verify()
    assert outcome.code == 0, outcome.err
    assert planted.starts == [("tp1", (0,)), ("tp1", (0,)), ("tp2", (0, 1)), ("tp2", (0, 1))], "the base first"
    assert [settings.offline for settings in planted.settings] == [False, True, False, True]
    assert {settings.dtype for settings in planted.settings} == {"float32"}
    summary = outcome.last["summary"]
    assert {plan: found["verdict"] for plan, found in summary.items()} == {
        "tp1": "PASS",
        "tp2": "PASS",
        "tp4": "NOT TESTED",
    }
    assert "tp4 NOT TESTED: tp4 needs 4 devices, this machine has 2. Use a machine with more cores" in outcome.out
    prompts = {
        (plan, offline): [one for *who, one in planted.asked if who == [plan, offline]]
        for plan, offline, _ in planted.asked
    }
    assert len({tuple(asked) for asked in prompts.values()}) == 1, "the same prompts for every engine"
    result = the_result(tmp_path)
    split = next(case for case in result.cases if case.id == "tp2/verify/offline")
    assert {check.name: check.passed for check in split.checks}[LIKE_BASE] is True
    assert {check.name: check.passed for check in split.checks}[LIKE_SERVED] is True
    assert split.repeats[0]["identical_to_base"] == 8
    assert all(isinstance(value, int | float) for repeat in split.repeats for value in repeat.values())
    kept = sorted(path.name for path in tmp_path.glob("*/*.requests/*.answers.json"))
    assert kept == [f"tp{tp}-verify-{way}-start0.answers.json" for tp in (1, 2) for way in ("offline", "served")]


def test_guess_prediction_and_measurement_are_shares_in_percent(verify: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = verify("--tp", "1", "2", "--guess", "60")
    result = the_result(tmp_path)
    split = next(case for case in result.cases if case.id == "tp2/verify/served")
    assert result.guess is not None and (result.guess.unit, result.guess.value) == ("%", 60)
    predicted = {estimate.metric: estimate for estimate in split.predicted}["weight_share"]
    (measured,) = split.summary
    whole, half = (rank_weight_bytes(TINY, tp, 4) for tp in (1, 2))
    assert (predicted.unit, measured.unit) == ("%", "%")
    assert predicted.value == pytest.approx(100 * half / whole) and measured.value == pytest.approx(predicted.value)
    assert "you guessed  60%" in outcome.out and f"predicted    {predicted.value:.4g}%" in outcome.out


def test_two_replicas_claimed_as_tp2_fail_the_script(verify: Callable[..., Outcome], planted: Planted) -> None:
    whole = round(rank_weight_bytes(TINY, 1, 4))
    planted.weights = lambda plan: [whole] * plan.devices
    outcome = verify("--tp", "1", "2", "--no-offline")
    assert outcome.code == 1
    assert outcome.last["summary"]["tp2"]["verdict"] == "FAIL"
    assert "the whole model stands on every device, these are replicas" in outcome.out


def test_other_tokens_in_float32_fail(verify: Callable[..., Outcome], planted: Planted) -> None:
    planted.parts["tp2", False] = (5, 1e-6)
    outcome = verify("--tp", "1", "2")
    assert outcome.code == 1
    assert "0 of 8 answers token-identical to tp1 served's (float32); the earliest parts after 5 tokens" in outcome.out
    assert outcome.last["summary"]["tp1"]["verdict"] == "PASS"


def test_an_offline_engine_that_writes_otherwise_fails_alone(verify: Callable[..., Outcome], planted: Planted) -> None:
    planted.parts["tp1", True] = (0, 1e-6)
    outcome = verify("--tp", "1", "2")
    assert outcome.code == 1
    assert outcome.last["summary"]["tp1"]["reason"].startswith("offline: 0 of 8 answers")
    assert outcome.last["summary"]["tp2"]["verdict"] == "PASS"


@pytest.mark.parametrize(("gap", "code"), [(0.01, 0), (30.0, 1)])
def test_in_bfloat16_a_gap_that_rounding_explains_passes(
    verify: Callable[..., Outcome], planted: Planted, gap: float, code: int
) -> None:
    planted.weights = lambda plan: [round(rank_weight_bytes(TINY, plan.tp, 2))] * plan.tp
    planted.parts["tp2", False] = planted.parts["tp2", True] = (5, gap)
    answer = planted.answer

    def near_tie(plan: str, offline: bool, prompt: tuple[int, ...], tokens: int) -> Answer:
        """Both sizes find the two tokens of place 5 as unequal as planted."""
        made = answer(plan, offline, prompt, tokens)
        steps = [
            (step[0], (step[1][0], step[0][1] - gap)) if index >= 5 else step
            for index, step in enumerate(made.likeliest)
        ]
        return Answer(made.token_ids, tuple(steps))

    planted.answer = near_tie  # type: ignore[method-assign]
    outcome = verify("--tp", "1", "2", "--dtype", "bfloat16")
    assert outcome.code == code, outcome.out
    assert f"the largest gap there is {gap:.2g} nats" in outcome.out


def test_the_default_precision_shares_the_runs_engines(verify: Callable[..., Outcome], planted: Planted) -> None:
    verify("--tp", "1", "--dtype", "auto", "--no-offline")
    assert [settings.dtype for settings in planted.settings] == ["auto"]


def test_a_size_that_does_not_start_is_not_tested_and_the_exit_code_is_0(
    verify: Callable[..., Outcome], planted: Planted
) -> None:
    planted.refuses = {"tp2"}
    outcome = verify("--tp", "1", "2")
    assert outcome.code == 0
    found = outcome.last["summary"]["tp2"]
    assert found["verdict"] == "NOT TESTED"
    assert found["reason"] == "served: did not start: the device ran out of memory"
    assert "Use more devices" in outcome.out


def test_an_engine_that_starts_and_says_nothing_fails(verify: Callable[..., Outcome], planted: Planted) -> None:
    planted.silent = {("tp2", False)}
    outcome = verify("--tp", "1", "2")
    assert outcome.code == 1
    assert "served: http://127.0.0.1:1 did not answer: gone" in outcome.last["summary"]["tp2"]["reason"]


def test_a_split_base_has_nothing_to_be_compared_with(verify: Callable[..., Outcome], planted: Planted) -> None:
    outcome = verify("--tp", "2")
    assert outcome.code == 0
    found = outcome.last["summary"]["tp2"]
    assert found["verdict"] == "NOT TESTED"
    assert found["reason"] == "served: tp2 is the smallest size: there is nothing to compare with"
    assert "Measure TP=1 in the same run" in outcome.out


def test_an_interrupted_run_resumes_and_still_compares(
    verify: Callable[..., Outcome], planted: Planted, tmp_path: Path
) -> None:
    planted.interrupts_before = ("tp2", False)
    assert verify("--tp", "1", "2").code == 130
    starts = len(planted.starts)
    outcome = verify("--tp", "1", "2")
    assert outcome.code == 0
    assert [plan for plan, _ in planted.starts[starts:]] == ["tp2", "tp2"], "the base is not asked again"
    result = the_result(tmp_path)
    assert plan_findings(result)[TP2].word == "PASS"


@pytest.mark.parametrize("damage", ["", "{"])
def test_answers_that_are_lost_leave_it_open(
    verify: Callable[..., Outcome], planted: Planted, tmp_path: Path, damage: str
) -> None:
    """Weights are then held against the model's shape, and only the output is unknown."""
    planted.interrupts_before = ("tp2", False)
    verify("--tp", "1", "2", "--no-offline")
    (kept,) = tmp_path.glob("*/*.requests/tp1-verify-served-start0.answers.json")
    kept.write_text(damage)
    outcome = verify("--tp", "1", "2", "--no-offline")
    assert outcome.code == 0
    assert outcome.last["summary"]["tp2"]["verdict"] == "NOT TESTED"
    assert "tp1's answers are missing" in outcome.last["summary"]["tp2"]["reason"]
    split = next(case for case in the_result(tmp_path).cases if case.plan == TP2)
    assert {check.name: check.passed for check in split.checks}[WEIGHTS] is True


def test_several_starts_are_held_against_the_first(
    verify: Callable[..., Outcome], planted: Planted, tmp_path: Path
) -> None:
    outcome = verify("--tp", "1", "2", "--no-offline", "--preset", "lab", "--prompts", "2")
    assert outcome.code == 0
    assert [plan for plan, _ in planted.starts] == ["tp1", "tp2", "tp2", "tp1", "tp1", "tp2", "tp1"]
    base = next(case for case in the_result(tmp_path).cases if case.plan == TP1)
    assert len(base.repeats) == 4
    assert {check.name: check.passed for check in base.checks}[LIKE_BASE] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompts", "0"), "--prompts 0: at least 1 is needed"),
        (("--output-tokens", "-3"), "--output-tokens"),
        (("--tp", "3"), "--tp 3: tp3 does not divide this model"),
        (("--tp", "0"), "--tp 0"),
        (("--dtype", "int8"), "--dtype"),
        (("--input-tokens", "5000"), "requests of 5032 tokens"),
        (("--workload", "/nowhere.jsonl"), "leave --workload out"),
        (("--conkurrency", "3"), "unknown option --conkurrency"),
    ],
)
def test_bad_input_is_one_line(verify: Callable[..., Outcome], arguments: tuple[str, ...], said: str) -> None:
    assert said in verify(*arguments).refusal()


def test_a_dry_run_tells_starts_and_starts_nothing(verify: Callable[..., Outcome], planted: Planted) -> None:
    outcome = verify("--dry-run")
    assert outcome.code == 0
    assert planted.starts == []
    assert outcome.last["summary"]["engine_starts"] == 4
    assert outcome.last["summary"]["minutes"] < 5
    assert "tp4/verify/served        skipped: tp4 needs 4 devices" in outcome.out
