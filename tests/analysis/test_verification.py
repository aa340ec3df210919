"""Planted evidence, and the verdict that it must lead to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.analysis.frames import latest_reference
from common.analysis.sharing.privacy import Privacy, names_here, rules_for
from common.analysis.sharing.share import words_of
from common.analysis.verification.judgement import (
    EXPECTED_WEIGHTS,
    LIKE_BASE,
    LOAD_REPORT,
    OFFLINE,
    SERVED,
    TOLERANCE_NATS,
    WEIGHTS,
    Finding,
    any_fails,
    inference_check,
    merged,
    output_check,
    plan_findings,
    verdict_of,
    weights_check,
)
from common.analysis.verification.table import (
    memory_rows,
    memory_shown,
    print_verification,
    read_verification,
    verdicts_shown,
    verification_summary,
)
from common.core.arrivals import ClosedLoop
from common.core.greedy import Likeness
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.stats import Estimate
from common.core.weight_split import rank_weight_bytes
from common.core.workload import Workload
from common.store.files import load
from common.store.schema import Case, CaseError, Check, Result
from tests.analysis.planted import ENVIRONMENT, SHAPE, TP1, TP2, TP4

TINY = ModelShape.from_config(SHAPE)
WHOLE = round(rank_weight_bytes(TINY, 1, 4))
HALF = round(rank_weight_bytes(TINY, 2, 4))
ALIKE = Likeness(8, 8, 256, 90, noise_nats=1e-5)


def weights(plan: ParallelPlan, held: Sequence[int], whole: int | None = WHOLE, name: str = WEIGHTS) -> Check:
    return weights_check(plan, held, rank_weight_bytes(TINY, plan.tp, 4, whole), whole, name)


def planted(plan: ParallelPlan, held: list[int], *checks: Check, offline: bool = False) -> Case:
    curve = OFFLINE if offline else SERVED
    case = Case(f"{plan}/{curve}", plan, curve, Workload(8, 32, 32, 10_240), ClosedLoop(1))
    case.predicted = [Estimate(EXPECTED_WEIGHTS, "B", rank_weight_bytes(TINY, plan.tp, 4))]
    case.repeats = [{"start": 0.0, "repeat": 0.0, "duration": 3.0}]
    total = 1_500_000_000
    case.engine = {
        "startup_s": 27.5,
        "kv_cache_tokens": 131_072 * plan.tp,
        "weight_bytes_per_rank": held,
        "memory_bytes_per_rank": [total] * plan.devices,
        "settings": {"dtype": "float32"},
    }
    case.checks = [inference_check([32] * 8, 32), weights(plan, held), *checks]
    return case


def result(*cases: Case) -> Result:
    made = Result("test_tensor_parallel", 1, "20260101T000000Z-m-x", "", [], {"model": "tiny"}, ENVIRONMENT)
    made.config["model_shape"] = SHAPE
    made.status, made.cases = "complete", list(cases)
    return made


SAME = output_check(LIKE_BASE, "tp1 served", ALIKE, "float32")


def test_a_split_model_passes() -> None:
    check = weights(TP2, [HALF, HALF])
    assert check.passed is True
    assert check.detail == "21.0 + 21.0 MB per rank, expected 21.0 MB (within 2%)"


def test_two_replicas_claimed_as_tp2_fail_though_all_else_is_right() -> None:
    """Whole weights on both devices: they answer, their tokens are TP=1's, their memory is what TP=2's would be."""
    check = weights(TP2, [WHOLE, WHOLE])
    assert check.passed is False
    assert "100% of the weights on one device, not 50%: the whole model stands on every device" in check.detail
    made = result(planted(TP1, [WHOLE]), planted(TP2, [WHOLE, WHOLE], SAME))
    rows = memory_rows(made)
    assert rows[0]["total"] == rows[1]["total"], "the trap: equal memory"
    assert plan_findings(made)[TP2].word == "FAIL"
    assert any_fails(made)
    assert verification_summary(made)["tp2"]["verdict"] == "FAIL"


@pytest.mark.parametrize("whole", [WHOLE, None])
def test_replicas_fail_with_and_without_tp1_beside_them(whole: int | None) -> None:
    assert weights(TP2, [WHOLE, WHOLE], whole).passed is False


@pytest.mark.parametrize("held", [[WHOLE, 0], [HALF, WHOLE], [HALF], [HALF, HALF, HALF], [WHOLE]])
def test_uneven_or_missing_ranks_fail(held: list[int]) -> None:
    assert weights(TP2, held).passed is False


def test_ranks_that_do_not_tell_leave_it_open() -> None:
    assert weights(TP2, []).passed is None
    case = planted(TP2, [], SAME)
    assert verdict_of(case).word == "NOT TESTED"


def test_less_than_the_shape_explains_needs_tp1_beside_it() -> None:
    """A quantised model: a quarter of the bytes. Its TP=1 tells what the whole is."""
    quarter = HALF // 4
    assert weights(TP2, [quarter, quarter], whole=None).passed is None
    assert weights(TP2, [quarter, quarter], whole=WHOLE // 4).passed is True
    assert weights(TP2, [WHOLE // 4, WHOLE // 4], whole=WHOLE // 4).passed is False
    alone = planted(TP1, [WHOLE // 4])
    alone.checks[1] = weights(TP1, [WHOLE // 4], whole=None)
    assert alone.checks[1].passed is None
    assert verdict_of(alone).word == "PASS", "nothing is split at TP=1"


def test_vllms_load_report_is_allowed_its_buffers() -> None:
    assert weights(TP2, [round(1.06 * HALF)] * 2).passed is False
    assert weights(TP2, [round(1.06 * HALF)] * 2, name=LOAD_REPORT).passed is True
    assert weights(TP2, [WHOLE] * 2, name=LOAD_REPORT).passed is False


def test_float32_must_be_identical() -> None:
    assert SAME.passed is True
    assert SAME.detail == (
        "8 of 8 answers token-identical to tp1 served's (float32); log-probabilities within 1e-05 nats (tolerance 0.01)"
    )
    parted = Likeness(8, 7, 250, 90, first_divergence=3, gap_nats=1e-7, noise_nats=1e-6)
    check = output_check(LIKE_BASE, "tp1 served", parted, "float32")
    assert check.passed is False
    assert "the earliest parts after 3 tokens, the largest gap there is 1e-07 nats" in check.detail


TOLERANCE = TOLERANCE_NATS["bfloat16"]


@pytest.mark.parametrize(
    ("gap", "noise", "unlisted", "passed"),
    [
        (0.9 * TOLERANCE, 0.5 * TOLERANCE, 0, True),
        (1.1 * TOLERANCE, 0.5 * TOLERANCE, 0, False),
        (0.9 * TOLERANCE, 1.1 * TOLERANCE, 0, False),
        (0.1 * TOLERANCE, 0.1 * TOLERANCE, 1, False),
        (None, None, 2, False),
    ],
)
def test_bfloat16_may_part_where_rounding_explains_it(
    gap: float | None, noise: float | None, unlisted: int, passed: bool
) -> None:
    likeness = Likeness(8, 2, 90, 60, first_divergence=4, gap_nats=gap, unlisted=unlisted, noise_nats=noise)
    check = output_check(LIKE_BASE, "tp1 served", likeness, "bfloat16")
    assert check.passed is passed
    assert "2 of 8 answers token-identical" in check.detail
    assert f"(tolerance {TOLERANCE:g})" in check.detail


def test_that_bfloat16_answers_part_is_said_to_be_expected() -> None:
    """`1 of 8 token-identical` beside PASS reads like a contradiction to whoever was promised identical tokens."""
    likeness = Likeness(8, 1, 90, 60, first_divergence=4, gap_nats=0.1, noise_nats=0.1)
    check = output_check(LIKE_BASE, "tp1 served", likeness, "bfloat16")
    assert (
        "1 of 8 answers token-identical to tp1 served's (bfloat16, in which rounding lets answers part)" in check.detail
    )
    rounded = planted(TP2, [HALF] * 2, check)
    rounded.engine["settings"] = {"dtype": "bfloat16"}
    (line,) = [line for line in read_verification(result(rounded)) if "expected to part" in line]
    assert line.startswith("In bfloat16 answers") and "identical is checked in float32 (--dtype float32)" in line
    exact = planted(TP2, [HALF] * 2, SAME)
    assert not any("expected to part" in line for line in read_verification(result(exact)))


def test_equal_tokens_of_unequal_likelihood_are_not_exact() -> None:
    """The same tokens by luck: an engine whose log-probabilities are off by 5 % computes something else."""
    check = output_check(LIKE_BASE, "tp1 served", replace(ALIKE, noise_nats=0.05), "float32")
    assert check.passed is False


def test_an_unknown_precision_is_held_to_be_exact() -> None:
    parted = Likeness(8, 7, 250, 90, first_divergence=3, gap_nats=1e-7, noise_nats=1e-6)
    assert output_check(LIKE_BASE, "tp1 served", parted, "int7").passed is False


def test_identical_bfloat16_answers_pass() -> None:
    assert output_check(LIKE_BASE, "tp1 served", ALIKE, "bfloat16").passed is True


def test_a_model_that_repeats_one_token_proves_nothing() -> None:
    assert output_check(LIKE_BASE, "tp1", Likeness(8, 8, 256, 1), "float32").passed is None


def test_short_answers_fail() -> None:
    check = inference_check([32, 31, 0], 32)
    assert check.passed is False
    assert check.detail.startswith("2 of 3 prompts not answered")


def test_several_starts_keep_the_worst() -> None:
    good, unknown, bad = (Check("weights are split", passed, str(passed)) for passed in (True, None, False))
    assert merged([good, bad, good]) == [bad]
    assert merged([good, unknown]) == [unknown]
    assert merged([good, good]) == [good]


def skipped(plan: ParallelPlan) -> Case:
    case = Case(f"{plan}/x", plan, SERVED, Workload(8, 32, 32, 10_240), ClosedLoop(1), status="skipped")
    case.error = CaseError("too_few_devices", f"{plan} needs 4 devices, this machine has 2", "Rent or free more")
    return case


def test_what_cannot_run_is_not_tested_and_the_remedy_is_named() -> None:
    finding = verdict_of(skipped(TP4))
    assert finding == Finding("NOT TESTED", "tp4 needs 4 devices, this machine has 2", "Rent or free more")


def test_an_engine_that_does_not_start_is_not_tested_one_that_dies_fails() -> None:
    case = planted(TP2, [HALF, HALF])
    case.status, case.error = "failed", CaseError("out_of_memory", "the device ran out of memory", "Use more devices")
    assert verdict_of(case).word == "FAIL"
    case.engine = {}
    finding = verdict_of(case)
    assert (finding.word, finding.remedy) == ("NOT TESTED", "Use more devices")
    assert finding.reason == "did not start: the device ran out of memory"
    assert not any_fails(result(planted(TP1, [WHOLE]), case))


def test_a_case_without_a_measurement_is_not_tested() -> None:
    case = planted(TP1, [WHOLE])
    case.repeats = []
    assert verdict_of(case).word == "NOT TESTED"


def test_a_plan_is_as_good_as_the_worse_of_its_two_engines() -> None:
    wrong = output_check(LIKE_BASE, "tp1 served", Likeness(8, 1, 9, 9, first_divergence=0, unlisted=7), "float32")
    made = result(
        planted(TP1, [WHOLE]), planted(TP2, [HALF, HALF], SAME), planted(TP2, [HALF, HALF], wrong, offline=True)
    )
    assert plan_findings(made)[TP1] == Finding("PASS")
    found = plan_findings(made)[TP2]
    assert found.word == "FAIL"
    assert found.reason.startswith("offline: 1 of 8 answers")


GOOD = result(
    planted(TP1, [WHOLE]),
    planted(TP1, [WHOLE], SAME, offline=True),
    planted(TP2, [HALF, HALF], SAME),
    planted(TP2, [HALF, HALF], SAME, offline=True),
    skipped(TP4),
)


def test_the_table_says_what_the_verdict_stands_on() -> None:
    rows = verdicts_shown(GOOD).to_numpy().tolist()
    assert rows == [
        ["tp1", "PASS", "27.5", "27.5", "ok", "ok", "base", "ok"],
        ["tp2", "PASS", "27.5", "27.5", "ok", "ok", "ok", "ok"],
        ["tp4", "NOT TESTED", "", "", "", "", "", ""],
    ]


def test_the_memory_table_shows_weights_beside_equal_totals() -> None:
    whole, half = memory_shown(GOOD).to_numpy().tolist()
    assert whole == ["tp1", "42.0", "42.0", "100.0%", "1073.7", "384.3", "1500.0"]
    assert half == ["tp2", "21.0", "21.0", "50.0%", "1073.7", "405.3", "1500.0"]


def test_the_trap_is_said_in_words() -> None:
    (line,) = [line for line in read_verification(GOOD) if line.startswith("Total memory is no proof")]
    assert "1500 MB under tp1 and 1500 MB (100%) under tp2" in line
    assert "42.0 and 21.0 MB (50%) per rank" in line


def test_everything_fits_80_columns_and_the_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_verification(GOOD)
    out = capsys.readouterr().out
    table = out.partition("\n- ")[0].splitlines()[1:]
    assert max(map(len, table)) <= 80, table
    assert "- tp4 NOT TESTED: tp4 needs 4 devices, this machine has 2. Rent or free more." in out


def test_a_result_without_anything_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    empty = result()
    empty.status = "interrupted"
    print_verification(empty)
    out = capsys.readouterr().out
    assert "no case was measured" in out
    assert "not complete (interrupted)" in out
    assert verification_summary(empty) == {}


def test_the_summary_is_for_machines() -> None:
    assert verification_summary(GOOD) == {
        "tp1": {"verdict": "PASS", "weight_bytes_per_rank": WHOLE, "expected_weight_bytes_per_rank": WHOLE},
        "tp2": {"verdict": "PASS", "weight_bytes_per_rank": HALF, "expected_weight_bytes_per_rank": HALF},
        "tp4": {"verdict": "NOT TESTED", "reason": "tp4 needs 4 devices, this machine has 2"},
    }


def test_the_committed_reference_passes_and_tells_nothing_private() -> None:
    path = latest_reference("test_tensor_parallel")
    found = load(path)
    assert {str(plan): finding.word for plan, finding in plan_findings(found).items()} == {
        "tp1": "PASS",
        "tp2": "PASS",
        "tp4": "NOT TESTED",
    }
    whole, half = memory_rows(found)
    assert half["weights"] / whole["weights"] == pytest.approx(0.5, abs=0.001)
    assert half["total"] / whole["total"] > 0.8, "which is why total memory proves nothing"
    privacy = Privacy(rules_for(names_here(), words_of([found])))
    assert privacy.found_json(json.loads(path.read_text())) == []
