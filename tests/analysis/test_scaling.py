"""The scaling table against planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.analysis.concurrency.rows import concurrency_cases
from common.analysis.scaling.figures import speedup
from common.analysis.scaling.findings import speedup_finding
from common.analysis.scaling.reading import caveats, gains, without_base
from common.analysis.scaling.rows import (
    ScalingRow,
    communication_share,
    group,
    samples,
    sampling_unit,
    scaling_cases,
    scaling_rows,
    where,
)
from common.core.plan import ParallelPlan
from common.store.schema import Case
from tests.analysis.pairs import judged
from tests.analysis.planted import TP1, TP2, TP4, X2, case, engine, full, result, skipped


def rows_of(*cases: Case) -> list[ScalingRow]:
    return scaling_rows(result(cases))


def test_speedup_efficiency_and_serial_share_are_exact() -> None:
    base, row = rows_of(case(TP2, "fixed", 4, [150.0] * 3), case(TP1, "fixed", 4, [100.0] * 3))
    assert base.is_base and base.speedup is None and base.throughput is not None
    assert base.throughput.value == pytest.approx(100)
    assert row.speedup is not None and row.efficiency is not None
    assert [row.speedup.value, row.speedup.low, row.speedup.high] == pytest.approx([1.5, 1.5, 1.5])
    assert row.efficiency.value == pytest.approx(0.75)
    assert row.serial_share == pytest.approx(1 / 3)  # (1/1.5 - 1/2) / (1 - 1/2)
    assert row.ideal == pytest.approx(2)
    assert not row.unresolved
    assert row.tpot_ms == pytest.approx(1e3 * 4 / 150)
    assert row.ttft_ms == pytest.approx(5e3 * 4 / 150)


def test_interval_is_welchs() -> None:
    _, row = rows_of(case(TP1, "fixed", 1, [90.0, 100.0, 110.0]), case(TP2, "fixed", 1, [140.0, 150.0, 160.0]))
    assert row.speedup is not None and row.speedup.low is not None and row.speedup.high is not None
    oracle = stats.ttest_ind(np.log([140, 150, 160]), np.log([90, 100, 110]), equal_var=False).confidence_interval()
    assert [row.speedup.low, row.speedup.high] == pytest.approx(np.exp([oracle.low, oracle.high]))


def test_an_interval_around_one_is_unresolved() -> None:
    _, row = rows_of(case(TP1, "fixed", 1, [90.0, 100.0, 110.0]), case(TP2, "fixed", 1, [95.0, 105.0, 115.0]))
    assert row.unresolved


def test_one_repeat_has_no_interval_and_claims_nothing() -> None:
    _, row = rows_of(case(TP1, "fixed", 1, [100.0]), case(TP2, "fixed", 1, [101.0]))
    assert row.speedup is not None
    assert row.speedup.low is None and row.speedup.high is None
    assert row.unresolved


def test_a_smallest_plan_without_room_is_no_base() -> None:
    starved = case(TP1, "fixed", 4, [10.0] * 3)
    starved.engine = engine(TP1, kv_cache_tokens=16 * (64 + 32) - 1)
    first, base, row = rows_of(starved, case(TP2, "fixed", 4, [100.0] * 3), case(TP4, "fixed", 4, [150.0] * 3))
    assert not first.is_base and base.is_base
    assert first.speedup is not None and first.speedup.value == pytest.approx(0.1)
    assert row.speedup is not None and row.efficiency is not None
    assert row.speedup.value == pytest.approx(1.5)
    assert row.efficiency.value == pytest.approx(0.75)  # four devices against two
    assert row.serial_share is None  # not from one device


def test_a_curve_has_one_base_or_no_speedup_and_says_so() -> None:
    """tp1's client is INVALID at 1 stream: tp2 must not take its place there and stand beside tp1's rows at 16."""
    rates = {TP1: 100.0, TP2: 150.0, TP4: 180.0}
    cases = [case(plan, "fixed", streams, [rate] * 3) for streams in (1, 16) for plan, rate in rates.items()]
    judged("INVALID", "slots were idle")(cases[0])
    found = result(cases)
    rows = {row.case.id: row for row in scaling_rows(found)}
    assert not any(row.is_base or row.speedup for id, row in rows.items() if id.endswith("/c1"))
    assert rows["tp1/fixed/c16"].is_base
    gained = rows["tp4/fixed/c16"].speedup
    assert gained is not None and gained.value == pytest.approx(1.8)
    assert without_base(found) == ["No speed-up at 1 stream (fixed): tp1, the base, has an INVALID client there."]
    assert without_base(found)[0] in caveats(found)
    judged("INVALID", "slots were idle")(cases[3])
    rows = {row.case.id: row for row in scaling_rows(found)}
    assert rows["tp2/fixed/c1"].is_base and rows["tp2/fixed/c16"].is_base, "INVALID everywhere: the next plan is one"
    assert without_base(found) == []


def test_oversubscribed_plans_have_no_efficiency_and_are_no_base() -> None:
    crowded = case(TP1, "fixed", 4, [90.0] * 3)
    beyond = case(TP4, "fixed", 4, [80.0] * 3)
    crowded.flags = beyond.flags = ["oversubscribed"]
    first, base, last = rows_of(crowded, case(TP2, "fixed", 4, [100.0] * 3), beyond)
    assert base.is_base
    for row in (first, last):
        assert row.speedup is not None and row.efficiency is None and row.serial_share is None and row.ideal is None


def test_cases_without_numbers_are_rows_without_numbers() -> None:
    failed = case(TP1, "fixed", 1, [])
    failed.status = "failed"
    rows = rows_of(failed, skipped(TP4, "fixed", 1), case(TP2, "fixed", 1, [50.0]))
    assert [row.case.status for row in rows] == ["failed", "ok", "skipped"]
    assert rows[0].throughput is None and rows[2].throughput is None
    assert rows[1].is_base and rows[1].speedup is None


def test_curves_compare_what_belongs_together() -> None:
    rows = scaling_rows(full())
    gained = {row.case.id: row.speedup.value for row in rows if row.speedup}
    assert "tp2/ladder/c16" not in gained
    assert gained["tp2/saturated/c64"] == pytest.approx(200 / 120, rel=1e-3)  # each at its own load
    assert gained["tp2/weak/c16"] == pytest.approx(152 / 80, rel=1e-3)  # eight streams for each device
    assert gained["tp1x2/fixed/c16"] == pytest.approx(1.7, rel=1e-3)


def test_several_starts_count_once_each() -> None:
    repeated = case(TP1, "fixed", 1, [10.0, 20.0], one_start=False)
    repeated.repeats.append(repeated.repeats[0] | {"repeat": 1.0, "output_throughput": 30.0})
    assert samples(repeated, "output_throughput") == [20.0, 20.0]
    assert sampling_unit([repeated]) == "between-starts"
    other = case(TP2, "fixed", 1, [10.0, 20.0])
    assert sampling_unit([repeated, other]) == "within-start"  # one row of one start: promise the less
    assert sampling_unit([]) == "within-start"


def test_rungs_of_the_search_are_in_the_first_start_alone_and_are_no_sample() -> None:
    """An evening in lab climbs on the way to saturation; its tables still compare engine starts."""
    climbed = [case(TP1, "ladder", streams, [50.0]) for streams in (16, 32)]
    repeated = [
        case(plan, curve, 8, [10.0, 20.0], one_start=False) for plan in (TP1, TP2) for curve in ("fixed", "closed")
    ]
    evening = result([*climbed, *repeated])
    assert sampling_unit(scaling_cases(evening)) == sampling_unit(concurrency_cases(evening)) == "between-starts"


def test_a_pinned_row_says_what_it_is() -> None:
    """At whatever load it saturates, it is no row of the fixed curve, and neither best nor worst of a plan."""
    cases = [case(TP1, "saturated", 32, [100.0] * 3), case(TP2, "saturated", 64, [150.0] * 3)]
    pinned = [case(TP2, "pinned", 16, [110.0] * 3), case(TP4, "pinned", 48, [120.0] * 3)]
    rows = rows_of(*cases, *pinned)
    assert [where(row) for row in rows] == ["saturated"] * 2 + ["with the base's KV cache"] * 2
    assert {group(row.case) for row in rows} == {0.0}, "each at its own best load: one group, and no line between them"
    assert speedup_finding(result([*cases, pinned[0]])) == "tp2 gives 1.50× saturated; ideal is 2×"
    assert any("with the base's KV cache (16 streams)" in line for line in gains(result([*cases, *pinned])))
    labels = [label.get_text() for label in speedup(result([*cases, *pinned])).axes[0].get_xticklabels()]
    assert labels[:2] == ["saturated,\neach plan\nat its best", "pinned to\nthe base's\nKV cache"]


def test_communication_is_all_reduces_over_the_step() -> None:
    split = case(TP2, "fixed", 16, [160.0])
    found = communication_share(split, result([split]))
    assert found == pytest.approx(17 * 60e-6 / 0.1)  # two for each of 8 layers and the embedding's; 100 ms a step
    whole = case(ParallelPlan(), "fixed", 16, [160.0])
    assert communication_share(whole, result([whole])) is None
    replicas = case(X2, "fixed", 16, [160.0])
    assert communication_share(replicas, result([replicas])) is None
