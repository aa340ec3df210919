"""Doubts about a comparison, each planted alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.analysis.scaling.doubts import doubts, room_for
from common.analysis.scaling.limits import limits
from common.analysis.scaling.reading import client_words, read_scaling, without_client
from common.analysis.scaling.rows import scaling_rows
from common.analysis.scaling.table import print_scaling, shown
from common.core.verdict import Verdict
from common.store.schema import Case
from tests.analysis.planted import TP1, TP2, WEIGHT_BYTES, case, engine, full, result

ONE, TWO = [99.0, 100.0, 101.0], [149.0, 150.0, 151.0]


def pair(curve: str = "fixed", streams: int = 16) -> tuple[Case, Case]:
    return case(TP1, curve, streams, ONE), case(TP2, curve, streams, TWO)


def test_a_clean_comparison_leaves_no_doubt() -> None:
    assert doubts(result(pair())) == []
    assert doubts(result([])) == []


def test_a_base_without_room_is_doubted_and_a_roomy_one_with_preemptions_too() -> None:
    base, other = pair("saturated", 64)
    base.engine = engine(TP1, kv_cache_tokens=63 * 96)
    assert room_for(base) == 63
    (line,) = doubts(result([base, other]))
    assert "room for 63 of 64 sequences" in line and "preemptions" not in line
    base.engine = engine(TP1)
    base.repeats[1]["preemptions"] = 2.0
    (line,) = doubts(result([base, other]))
    assert "2 preemptions" in line and "room" not in line
    base.engine = {}
    assert room_for(base) is None


def test_settings_that_differ_between_plans_are_named() -> None:
    base, other = pair()
    base.engine["settings"] = {"max_num_seqs": 256, "dtype": "bfloat16"}
    other.engine["settings"] = {"max_num_seqs": 512, "dtype": "bfloat16"}
    assert doubts(result([base, other])) == ["Plans ran with different settings: max_num_seqs is 256 (tp1), 512 (tp2)."]


@pytest.mark.parametrize(("per_rank", "doubted"), [(0.5, False), (0.54, False), (0.6, True), (1.0, True)])
def test_weights_that_are_not_split_are_named(per_rank: float, doubted: bool) -> None:
    base, other = pair()
    other.engine["weight_bytes_per_rank"] = [round(per_rank * WEIGHT_BYTES), WEIGHT_BYTES // 2]
    lines = doubts(result([base, other]))
    assert lines == (
        [f"tp2 does not split the weights as it should: a rank holds {per_rank:.0%} of them, not 50%."] * doubted
    )


def test_the_same_work_in_two_cases_must_come_out_alike() -> None:
    alike = [*pair(), case(TP2, "weak", 16, [155.0, 156.0, 157.0])]
    assert doubts(result(alike)) == []
    apart = [*pair(), case(TP2, "weak", 16, [119.0, 120.0, 121.0])]
    (line,) = doubts(result(apart))
    assert line.startswith("tp2/fixed/c16 and tp2/weak/c16 are the same work and differ by -20%")


def test_cases_of_two_models_are_never_the_same_work() -> None:
    own, other = case(TP1, "fixed", 16, ONE), case(TP1, "fixed", 16, [499.0, 500.0, 501.0])
    other.id, other.model = f"another/{other.id}", "another"
    other.engine["weight_bytes_per_rank"] = [WEIGHT_BYTES // 4]
    assert doubts(result([own, other])) == []


def steady(made: Case, factor: float) -> Case:
    for repeat in made.repeats:
        repeat["steady_output_throughput"] = factor * repeat["output_throughput"]
        repeat["steady_median_ttft_ms"] = 7.0
        repeat["steady_median_tpot_ms"] = 3.0
    return made


def test_steady_windows_count_where_every_compared_case_has_one() -> None:
    base, other = pair()
    rows = scaling_rows(result([steady(base, 1.1), steady(other, 1.2)]))
    assert [row.steady for row in rows] == [True, True]
    assert rows[0].throughput is not None and rows[0].throughput.value == pytest.approx(110, rel=1e-3)
    assert rows[1].speedup is not None and rows[1].speedup.value == pytest.approx(1.5 * 1.2 / 1.1, rel=1e-3)
    assert rows[1].ttft_ms == pytest.approx(7) and rows[1].tpot_ms == pytest.approx(3)
    assert any(line.startswith("Numbers are of the steady window") for line in read_scaling(result([base, other])))
    mixed = scaling_rows(result([case(TP1, "fixed", 16, ONE), other]))
    assert [row.steady for row in mixed] == [False, False]


def test_the_pinned_curve_stands_beside_the_saturated_base() -> None:
    base, own = case(TP1, "saturated", 32, ONE), case(TP2, "saturated", 64, [199.0, 200.0, 201.0])
    pinned = case(TP2, "pinned", 32, TWO)
    read = result([base, own, pinned])
    rows = {row.case.id: row for row in scaling_rows(read)}
    gained = rows[pinned.id].speedup
    assert gained is not None and gained.value == pytest.approx(1.5, rel=1e-3)
    assert not rows[pinned.id].is_base
    (line,) = [line for line in limits(read) if line.startswith("With no more KV cache")]
    assert "a factor of 1.33" in line
    print_scaling(read)
    alone = scaling_rows(result([pinned]))
    assert alone[0].speedup is None and not alone[0].is_base


def test_traced_all_reduces_are_the_upper_bound() -> None:
    read = full()
    for one in read.cases:
        if one.engine.get("all_reduce"):
            one.engine["all_reduce_traced"] = {"streams": 16, "share": 0.12, "all_reduce_s": 0.06, "span_s": 0.5}
    (line,) = [line for line in limits(read) if line.startswith("All-reduces")]
    assert "at least" in line and "at most 12% (profiled at 16 streams" in line


def test_what_the_machine_itself_allows_does_not_depend_on_the_client() -> None:
    base, other = pair()
    (line,) = limits(result([base, other]))[-1:]
    assert line.startswith("The machine itself: 2 devices together have 1.40x")
    assert "its matrix rate: the first bounds decoding for few streams" in line
    base.client = other.client = Verdict("INVALID", ["the event loop stood still"], "close other programs")
    assert limits(result([base, other])) == [line]
    assert limits(result([base])) == [], "of several devices nothing was measured"


def test_a_ceiling_below_what_a_plan_gained_is_no_limit() -> None:
    read = result(pair())
    line = limits(read)[-1]
    assert "gained more" not in line
    low = {"matrix_scaling": 1.05, "matrix_scaling_range": [1.0, 1.1], "memory_scaling_range": [1.1, 1.2]}
    read.environment = {**read.environment, "ceilings": {**read.environment["ceilings"], **low, "memory_scaling": 1.15}}
    line = limits(read)[-1]
    assert "tp2 gained more, 1.50 [1.4" in line and "at 16 streams: the machine was measured in a worse moment" in line
    weak = limits(replace(read, cases=list(pair("weak", 8))))[-1]
    assert "gained more" not in weak, "of another load on each side"


def test_more_than_all_devices_can_is_named_as_a_disturbance() -> None:
    disturbed = result(list(pair()))
    disturbed.environment |= {"ceilings": disturbed.environment["ceilings"] | {"matrix_scaling_range": [1.3, 3.4]}}
    assert limits(disturbed)[-1].endswith(
        "More than 2x cannot be: something else ran in some rounds. Measure again on a quiet machine."
    )


def test_an_invalid_client_is_compared_with_nothing() -> None:
    base, other = pair()
    other.client = Verdict("INVALID", ["the client used 99% of a core (limit 95%)"], "lower the load")
    read = result([base, other])
    rows = scaling_rows(read)
    assert rows[0].is_base and rows[1].speedup is None and rows[1].throughput is not None
    assert [line for line in read_scaling(read) if "INVALID" in line] == [
        "No speed-up of tp2 could be measured: its client was INVALID in every row.",
        "The client is INVALID in tp2/fixed/c16: the client used 99% of a core (limit 95%). Remedy: lower the load.",
    ]
    assert shown(read)["speed-up"].tolist() == ["base", "INVALID"]
    base.client = other.client
    assert not any(row.is_base for row in scaling_rows(result([base])))


def test_a_plan_whose_client_is_invalid_in_every_row_is_said_to_be_compared_with_nothing() -> None:
    invalid = Verdict("INVALID", ["the event loop stood still"], "close other programs")
    cases = [*pair(), *pair("saturated", 64)]
    cases[1].client = invalid
    assert without_client(result(cases)) == [], "one of tp2's rows is left"
    cases[3].client = invalid
    of = ["No speed-up of tp2 could be measured: its client was INVALID in every row."]
    assert without_client(result(cases)) == of and of[0] in read_scaling(result(cases))
    cases[0].client = cases[2].client = invalid
    over = "No speed-up over tp1 could be measured: its client was INVALID in every row."
    assert without_client(result(cases)) == [over, *of]
    assert without_client(result([cases[0], cases[2]])) == [], "one plan alone was not to be compared"


def test_doubtful_cases_with_one_reason_share_a_sentence() -> None:
    base, other = pair()
    base.client = other.client = Verdict("DOUBTFUL", ["client and devices share cores"], "give it a core")
    lines = [line for line in read_scaling(result([base, other])) if line.startswith("The client is DOUBTFUL")]
    assert lines == [
        "The client is DOUBTFUL in tp1/fixed/c16, tp2/fixed/c16: client and devices share cores."
        " Remedy: give it a core."
    ]
    base.client = Verdict("DOUBTFUL", ["the client used 80% of a core (limit 70%)"], "give it a core")
    third = case(TP2, "fixed", 1, TWO)
    third.client = Verdict("DOUBTFUL", ["the client used 75% of a core (limit 70%)"], "give it a core")
    assert client_words(result([base, third, other])) == [
        "The client is DOUBTFUL in tp1/fixed/c16, tp2/fixed/c1: the client used 80% of a core (limit 70%)"
        " (the first one's numbers). Remedy: give it a core.",
        "The client is DOUBTFUL in tp2/fixed/c16: client and devices share cores. Remedy: give it a core.",
    ]
    base.client = other.client = Verdict("VALID")
    assert not any("The client is" in line for line in read_scaling(result([base, other])))
