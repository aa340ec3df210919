"""Which measurement is advised, and what predictions are made of; the truth is planted, the predictor is real."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from common.analysis.decision.answer import Foretold, Question, decide
from common.analysis.decision.changes import changes
from common.analysis.decision.loads import Load, Work, loads_of
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.stats import Estimate
from common.experiment import foretell as foretelling
from common.experiment.advice import Site, command, plans_measured, site_of, wanted
from common.experiment.foretell import foretell, measured_elsewhere
from common.experiment.options import Options, parse
from common.experiment.slo import parse_slo
from common.predict.hardware import find
from common.predict.shapes import find_shape
from common.predict.wanted import Ask
from common.store.files import StoreError
from common.store.schema import Case
from tests.analysis.planted import SHAPE, TP1, TP2
from tests.analysis.planted_concurrency import LADDER, closed, result
from week5.benchmark_scaling import ScalingOptions
from week5.compare_parallel_plans import PlanOptions
from week5.simulate_concurrent_requests import ConcurrencyOptions

REPOSITORY = Path(__file__).resolve().parents[2]
PP2 = ParallelPlan(pp=2)
LIMITS = {"ttft": 1000.0, "tpot": 100.0}
WORK = Work(32, 32)
SIZES: dict[str, Any] = dict(SHAPE)
MODEL = ModelShape(**SIZES)
SITE = Site("Some/Model-8B", MODEL, "gpu", 8, 7.16)


def loads(cases: list[Case]) -> list[Load]:
    return loads_of(Path("/nowhere/x.json"), result(cases))


def foretold(plan: ParallelPlan, rate: float) -> Foretold:
    return Foretold(plan, 64, Estimate("request_rate", "1/s", 2 * rate, rate, 4 * rate), 50.0, 40.0)


def test_between_the_load_that_kept_the_limits_and_the_one_that_did_not() -> None:
    found = decide(Question(20.0, LIMITS, 1), WORK, loads([closed(TP1, clients) for clients in LADDER]))
    measure = wanted(found, None)
    assert (measure.plan, measure.clients) == (TP1, (16, 32, 64))
    assert measure.rate == pytest.approx(8.5, rel=0.01), "and what it carries, by the clock"


def test_not_between_where_that_could_save_no_engine() -> None:
    """One engine is the fewest that there are, whatever it carries."""
    found = decide(Question(5.0, LIMITS, 1), WORK, loads([closed(TP1, clients) for clients in LADDER]))
    measure = wanted(found, None)
    assert any("no engine could be saved" in line for line in changes(found))
    assert measure.clients == (16,) and "between" not in measure.reason and "three starts" in measure.reason


@pytest.mark.parametrize("recording", ["", "0" * 64])
def test_engines_that_share_a_machine_are_measured_side_by_side_first(recording: str) -> None:
    """tp1 keeps the limits at 16 clients; the answer puts two engines on each machine."""
    found = decide(Question(20.0, LIMITS, 2), Work(40, 50, recording), loads([closed(TP1, 16), closed(TP1, 64)]))
    measure = wanted(found, None)
    assert measure.plan == ParallelPlan(replicas=2) and measure.clients == (16, 32, 64) and measure.rate is None
    assert "nothing shows that they add up" in measure.reason
    assert plans_measured(measure, SITE) == [TP2, measure.plan], "the command measures both, so minutes are of both"
    python, script, *words = shlex.split(command(found, measure, SITE))
    assert (python, script) == ("python", "week5/benchmark_scaling.py")
    made = parse(ScalingOptions, "", words)
    assert (made.tp, made.replicas, made.curves, made.concurrency) == (("2",), True, ("fixed",), (16, 32, 64))
    assert (made.workload is not None) == bool(recording)


def test_copies_that_the_scaling_benchmark_cannot_make_are_measured_as_plans() -> None:
    """Of larger engines, and as many as no tensor-parallel size is."""
    for cases, machine, written in (([closed(TP2, 16)], 4, "tp2x2"), ([closed(TP1, 16)], 3, "tp1x3")):
        found = decide(Question(50.0, LIMITS, machine), WORK, loads(cases))
        words = shlex.split(command(found, wanted(found, None), SITE))
        assert words[1] == "week5/compare_parallel_plans.py"
        assert parse(PlanOptions, "", words[2:]).plans == (written,)


def test_beyond_the_most_tried_where_all_of_it_was_within() -> None:
    found = decide(Question(20.0, LIMITS, 1), WORK, loads([closed(TP1, clients) for clients in LADDER[:-1]]))
    assert wanted(found, None).clients == (16, 32, 64)
    nothing = decide(Question(20.0, {"ttft": 0.1}, 2), WORK, loads([closed(TP1, 8)]))
    assert wanted(nothing, None).clients == (2, 4, 8), "below the lightest, where that was too much"


def test_a_tempting_prediction_is_measured_first() -> None:
    found = decide(Question(99.0, LIMITS, 8), WORK, loads([closed(TP1, 16)]), [foretold(TP2, 1e3)])
    assert wanted(found, TP1).plan == TP2


def test_without_measurements_what_the_answer_rests_on_or_what_tells_most() -> None:
    found = decide(Question(20.0, LIMITS, 8), WORK, [], [foretold(TP2, 9.0)])
    assert found.chosen is not None and found.chosen.capacity.predicted
    assert wanted(found, TP1).plan == TP2, "tp1 keeps no limits: it would not be bought"
    assert wanted(found, TP2).rate == 9.0
    nothing = decide(Question(20.0, LIMITS, 8), WORK, [])
    assert wanted(nothing, TP1).plan == TP1 and wanted(nothing, None).plan == TP1


@pytest.mark.parametrize(
    ("plan", "recording", "options", "starts"),
    [
        (TP2, "", ConcurrencyOptions, "week5/simulate_concurrent_requests.py --model Some/Model-8B --tp 2"),
        (TP2, "0" * 64, ScalingOptions, "week5/benchmark_scaling.py --model Some/Model-8B --tp 2"),
        (PP2, "", PlanOptions, "week5/compare_parallel_plans.py --model Some/Model-8B --plans pp2"),
        (PP2, "0" * 64, PlanOptions, "week5/compare_parallel_plans.py --model Some/Model-8B --plans pp2"),
    ],
)
def test_the_command_is_of_an_experiment_that_takes_it(
    plan: ParallelPlan, recording: str, options: type[Options], starts: str
) -> None:
    found = decide(Question(20.0, LIMITS, 8), Work(40, 50, recording), [], [foretold(plan, 9.0)])
    text = command(found, wanted(found, None), SITE)
    python, script, *words = shlex.split(text)
    assert python == "python" and (REPOSITORY / script).is_file() and starts in text
    made = parse(options, "", words)
    assert (made.model, made.usd_per_hour, made.preset) == ("Some/Model-8B", 7.16, "lab")
    assert (made.workload is not None) == bool(recording and plan == TP2), "the others send requests of their own"
    if isinstance(made, ConcurrencyOptions):
        assert (made.rate, made.input_tokens) == ((9.0,), 40) and parse_slo(made.slo or ()) == LIMITS
    if isinstance(made, PlanOptions):
        assert (made.input_tokens, made.output_tokens) == (40, 50), "its mean lengths, where it is recorded"


def test_a_result_says_where_it_was_measured() -> None:
    made = result([closed(TP1, 1)])
    made.cost = {"usd_per_hour": 3.0}
    assert site_of(made, None) == Site("synthetic", MODEL, "cpu", 2, 3.0)
    assert site_of(made, 5.0).usd_per_hour == 5.0
    made.environment["devices"] = []
    with pytest.raises(StoreError, match="measure it again"):
        site_of(made, None)
    del made.config["model_shape"]
    with pytest.raises(StoreError, match="measure it again"):
        site_of(made, None)


def test_results_of_another_model_or_accelerator_are_told_apart() -> None:
    made = result([closed(TP1, 1)], model="Qwen/Qwen3-8B")
    made.environment["devices"] = [{"name": "NVIDIA H100 80GB HBM3"}]
    assert measured_elsewhere("qwen3-8b", "H100")(made) == ""
    assert measured_elsewhere(None, None)(made) == ""
    assert "model Qwen/Qwen3-8B" in measured_elsewhere("Qwen/Qwen3-32B", None)(made)
    assert "H100" in measured_elsewhere(None, "L40S")(made)
    assert "SYNTHETIC" in measured_elsewhere(None, "H100")(result([closed(TP1, 1)]))


@pytest.mark.slow
def test_predicted_rates_keep_the_limits_and_follow_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foretelling, "LADDER", (1, 16))
    ask = Ask(find_shape("Llama-3-8B")[0], find("H100"), 2.0, 32, 32, 1)
    plans = [TP1, TP2, ParallelPlan(replicas=2), ParallelPlan(pp=2)]
    loose = foretell(ask, plans, {"tpot": 1e6})
    assert [str(one.plan) for one in loose.foretold] == ["tp1", "tp2", "pp2"], "replicas are engines of their own"
    assert all(one.clients == 16 and one.rate.low and one.rate.low < one.rate.value for one in loose.foretold)
    strict = foretell(ask, plans, {"tpot": loose.foretold[0].tpot_ms * 0.9})
    assert all(one.tpot_ms <= loose.foretold[0].tpot_ms * 0.9 for one in strict.foretold)
    none = foretell(ask, plans, {"ttft": 1e-6})
    assert none.foretold == [] and none.left_out[0].startswith("tp1, tp2, pp2: PREDICTED")
    seen = closed(TP1, 16, 3.0)
    followed = foretell(ask, plans, {"tpot": 1e6}, loads([seen]))
    beyond = foretell(ask, plans, {"tpot": 1e6}, loads([closed(TP1, 4, 3.0)]))
    assert {one.clients for one in beyond.foretold} == {4}, "only where a measurement calibrates"
    rates = [found.foretold[1].rate for found in (loose, followed)]
    widths = [rate.high / rate.low for rate in rates if rate.low and rate.high]
    assert widths[1] < widths[0], "tp1's measurement narrows tp2's interval"
