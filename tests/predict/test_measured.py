from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.core.arrivals import ClosedLoop
from common.core.beside import Beside
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.workload import Workload
from common.predict.calibrate import Priors, stored_priors
from common.predict.card_table import WHOLE, predicted_beside
from common.predict.measured import (
    NotPredictableError,
    cpu_priors,
    devices_of,
    predict_result,
    token_times,
)
from common.predict.step import CONSTANTS, Rows, log_rate
from common.predict.wanted import Ask, wanted_row
from common.store.files import load as load_file
from common.store.schema import Case, Result

ROOT = Path(__file__).resolve().parents[2]
CEILINGS = {"matrix_flops_one": 1e11, "memory_bytes_per_s_one": 3e10, "memory_bytes_per_s_all": 4.5e10, "devices": 4}
ENVIRONMENT: dict[str, Any] = {
    "device_kind": "cpu",
    "devices": [{"name": "a core", "memory_bytes": 12e9}],
    "ceilings": CEILINGS,
}
SHAPE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16}
SHAPE |= {"num_key_value_heads": 4, "head_dim": 64, "vocab_size": 10240, "max_position_embeddings": 4096}
MODEL = SHAPE | {"tie_word_embeddings": True, "num_experts": 0, "num_experts_per_tok": 0, "dtype": "bfloat16"}
TP1, TP2, TP4, PP2, X2 = (ParallelPlan.parse(text) for text in ("tp1", "tp2", "tp4", "pp2", "tp1x2"))
LOADS = (1, 4, 16, 64)


def rows_of(plans: Sequence[ParallelPlan], load: int) -> Rows:
    shape = ModelShape(**MODEL)  # type: ignore[arg-type]
    asks = [Ask(shape, devices_of(ENVIRONMENT, plan.devices), 2.0, 32, 32, load) for plan in plans]
    return Rows.joined([wanted_row(ask, plan) for ask, plan in zip(asks, plans, strict=True)])


def planted(plans: Sequence[ParallelPlan], priors: Priors) -> Result:
    """A machine whose constants lie half a width away from where they are sought."""
    constants = priors.centres + 0.5 * priors.widths * np.array([1, -1, 1, -1, 1, -1, 0, 0, 0, 0, 0])
    cases = []
    for load in LOADS:
        for plan, rate in zip(plans, np.exp(log_rate(constants, rows_of(plans, load))), strict=True):
            repeats = [{"output_throughput": float(rate), "start": 0.0, "repeat": 0.0}]
            name = f"{plan}/fixed/c{load}"
            cases.append(Case(name, plan, "fixed", Workload(8, 32, 32, 10240, 0), ClosedLoop(load), repeats=repeats))
    return Result("x", 1, "r", "k", [], {"model_shape": MODEL}, ENVIRONMENT, cases=cases)


def by_plan(found: Sequence[Beside], plan: ParallelPlan) -> list[Beside]:
    return [one for one in found if one.plan == plan]


def test_a_machine_that_follows_the_step_model_is_predicted_from_its_smallest_plans() -> None:
    found = predict_result(planted([TP1, TP2, TP4, PP2, X2], cpu_priors(stored_priors())), stored_priors())
    assert {one.plan for one in found if one.calibrates} == {TP1, TP2}
    for plan in (TP4, PP2, X2):
        assert np.median([abs(one.error) for one in by_plan(found, plan)]) < 0.15
        assert np.mean([one.low <= one.measured <= one.high for one in by_plan(found, plan)]) >= 0.75


def test_the_four_bars_are_of_the_same_load_and_add_up() -> None:
    found = predict_result(planted([TP1, TP2, X2], cpu_priors(stored_priors())), stored_priors())
    base = {one.concurrency: one.measured for one in by_plan(found, TP1)}
    assert all(one.bars is None for one in by_plan(found, TP1))
    for one in (*by_plan(found, TP2), *by_plan(found, X2)):
        bars = one.bars
        assert bars is not None
        assert bars.ideal == pytest.approx(2 * base[one.concurrency])
        taken = bars.memory_and_batch + bars.communication + bars.other + bars.unexplained
        assert bars.ideal - taken == pytest.approx(one.measured)
    assert all(one.bars is not None and one.bars.communication == 0 for one in by_plan(found, X2))


def test_slower_all_reduces_are_foretold_in_the_communication_bar() -> None:
    """Half a millisecond more in each of 17 all-reduces of a pass: 8.5 ms more for each step of 16 sequences."""
    rows = rows_of([TP1, TP2], 16)
    constants = cpu_priors(stored_priors()).centres
    plain, slowed = token_times(constants, rows), token_times(constants, rows, 0.5e-3)
    assert slowed[0] == plain[0]
    assert slowed[1].communication_s - plain[1].communication_s == pytest.approx(17 * 0.5e-3 / 16, rel=1e-3)


def test_slices_of_a_cpu_share_the_memory_bandwidth_that_was_measured() -> None:
    assert devices_of(ENVIRONMENT, 1).bandwidth == pytest.approx(3e10)
    assert devices_of(ENVIRONMENT, 2).bandwidth == pytest.approx((3e10 + 0.5e10) / 2)
    assert devices_of(ENVIRONMENT, 4).bandwidth == pytest.approx(4.5e10 / 4)
    assert devices_of({"device_kind": "cuda", "devices": [{"name": "NVIDIA H100 80GB HBM3"}]}, 2).nvlink is None


def test_a_reference_result_is_predicted_with_its_all_reduces() -> None:
    (path,) = (ROOT / "results/reference/2x1core-amd-epyc/benchmark_scaling").glob("*.json")
    found = predict_result(load_file(path), stored_priors())
    assert {str(one.plan) for one in found} == {"tp1", "tp2", "tp1x2"}
    assert all(np.isfinite([one.predicted, one.low, one.high]).all() for one in found)
    ladder = next(one for one in found if one.case == "tp1x2/ladder/c32")
    assert ladder.error > 1 / 3
    assert any(doubt.startswith("no case of several engines calibrates") for doubt in ladder.doubts)
    held = [one for one in found if not one.calibrates]
    assert sum(one.inside for one in held) >= len(held) / 2
    assert all(one.high / one.low > 2 for one in held), "what misses by more than a third is not known to a tenth"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cases": []}, "no measured case of fixed"),
        ({"config": {}}, "the model's shape"),
        ({"environment": {"device_kind": "cpu"}}, "the CPU's ceilings"),
        ({"environment": ENVIRONMENT | {"ceilings": None}}, "the CPU's ceilings"),
    ],
)
def test_a_result_without_what_is_needed_is_refused(change: dict[str, Any], said: str) -> None:
    result = planted([TP1, TP2], cpu_priors(stored_priors()))
    for name, value in change.items():
        setattr(result, name, value)
    with pytest.raises(NotPredictableError, match=said):
        predict_result(result, stored_priors())


def test_lines_say_what_is_predicted_or_why_nothing_is() -> None:
    result = planted([TP1, TP2, PP2], cpu_priors(stored_priors()))
    found, said = predicted_beside(result)
    assert len(found) == 12
    line, *doubts = [line for line in said if not line.startswith(("case ", "tp", "pp"))]
    assert line.startswith("4 cases predicted from tp1, tp2: median error")
    assert doubts == [
        "Low confidence, wider intervals (all of them): the priors were learnt over GPUs, and this is a CPU.",
        "Low confidence, wider intervals (all of them): no case of several stages calibrates.",
        "Low confidence, wider intervals (all of them): it was measured once.",
    ]
    assert sum(" low " in line for line in said) == 4
    result.cases[0].repeats[0]["steady_output_throughput"] = 1.0
    _, steady = predicted_beside(result)
    assert [line for line in steady if line not in said] == [WHOLE], "no other rate is taken, and that is said"
    result.environment = ENVIRONMENT | {"ceilings": None}
    none, (why,) = predicted_beside(result)
    assert none == [] and why.startswith("Nothing is predicted: the result does not say the CPU's ceilings")
    result.environment = {"device_kind": "cuda", "devices": [{"name": "Some GPU"}]}
    none, (why,) = predicted_beside(result)
    assert none == [] and "GPU 'Some GPU' is unknown" in why


@pytest.mark.parametrize("plans", [[TP1], [TP1, TP2]])
def test_where_all_cases_calibrate_the_measurement_that_is_needed_is_named(plans: list[ParallelPlan]) -> None:
    result = planted(plans, cpu_priors(stored_priors()))
    for count, advice in (
        (1, "on a machine with two devices"),
        (2, "--tp 1 2 --replicas"),
        (8, "--tp 1 2 4 --replicas"),
    ):
        result.environment = ENVIRONMENT | {"devices": ENVIRONMENT["devices"] * count}
        _, said = predicted_beside(result)
        assert said[-1].startswith(f"Nothing is left to predict: only {', '.join(map(str, plans))} gave rates")
        assert advice in said[-1]


def test_a_load_and_engines_that_nothing_calibrates_are_of_low_confidence() -> None:
    result = planted([TP1, TP2, TP4, X2], cpu_priors(stored_priors()))
    result.cases = [case for case in result.cases if case.plan in (TP4, X2) or not case.id.endswith("/c64")]
    for case in result.cases:
        case.repeats *= 2
        case.flags = ["host_shares_devices"]
    found = {one.case: one.doubts for one in predict_result(result, stored_priors())}
    cpu, load = "the priors were learnt over GPUs, and this is a CPU", "no calibrating case has this load"
    engines = "no case of several engines calibrates, and what serves them takes part of the devices"
    assert found["tp1/fixed/c1"] == ()
    assert found["tp4/fixed/c16"] == (cpu,)
    assert found["tp4/fixed/c64"] == (cpu, load)
    assert found["tp1x2/fixed/c64"] == (cpu, engines, load)


def test_what_the_model_misses_widens_the_intervals() -> None:
    """Of two loads on two calibrating plans one gains half of what it would, the other twice."""
    result = planted([TP1, TP2, TP4], cpu_priors(stored_priors()))
    for case, factor in zip([case for case in result.cases if case.plan == TP2], (0.5, 2, 0.5, 2), strict=True):
        case.repeats[0]["output_throughput"] *= factor
    doubts = by_plan(predict_result(result, stored_priors()), TP4)[0].doubts
    assert any(doubt.startswith("the model misses the calibrating cases by") for doubt in doubts)


def test_nothing_to_calibrate_with_is_refused() -> None:
    with pytest.raises(NotPredictableError, match="to calibrate with"):
        predict_result(planted([PP2, X2], cpu_priors(stored_priors())), stored_priors())


def test_a_cpu_has_a_centre_for_every_constant() -> None:
    assert len(cpu_priors(stored_priors()).centres) == len(CONSTANTS)
