"""What is said of a mix: planted losses and gains, unresolved ones, failures, clients that cannot be believed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from common.analysis.fairness import figures as fairness_figures
from common.analysis.fairness.reading import compared, estimate, finding, losses, read_fairness, verdicts
from common.analysis.fairness.table import fairness_shown, fairness_summary, print_fairness
from common.core.plan import ParallelPlan
from common.core.record import RequestRecord
from common.core.stats import ratio
from common.core.verdict import Verdict
from tests.analysis.mixed_results import failed_case, mixed_case, mixed_result, on_and_off


def test_a_planted_unfairness_is_reported_with_an_interval_that_excludes_one() -> None:
    (_, off) = on_and_off().cases
    found = estimate(off, "short_p99_ttft_over_alone", "")
    assert found is not None and found.low is not None and found.low > 1
    (line,) = [line for line in losses(on_and_off()) if ", off" in line]
    assert line == (
        "tp1, off (no chunked prefill, budget 2304): beside long requests the short ones' p99 TTFT is 100.0"
        " [95.1, 105.1] times what it is alone, and an answer stands still for up to 205 [193, 218] times"
        " what it is alone."
    )


def test_what_is_gained_and_paid_is_a_ratio_with_welchs_interval() -> None:
    (line,) = verdicts(on_and_off())
    (_, on, off, made) = compared(on_and_off())[0]
    expected = ratio("", "", [r["short_max_itl_ms"] for r in on.repeats], [r["short_max_itl_ms"] for r in off.repeats])
    (halt,) = [change for change in made if "standstill" in change.name]
    assert (halt.ratio.value, halt.ratio.low, halt.ratio.high) == (expected.value, expected.low, expected.high)
    assert halt.ratio.value == pytest.approx(0.25) and not halt.unresolved
    assert line.startswith("Chunked prefill (tp1, on against off): short requests: p99 TTFT 1.00 [")
    assert line.count("(not resolved from unchanged)") == 4, "all but the standstill"
    assert "; long requests: median TTFT 1.00 [" in line


def test_a_price_that_the_long_ones_pay_is_resolved() -> None:
    dear = mixed_case("threshold", ttft_ms=(300.0, 310.0, 305.0), long_ms=(6000.0, 6050.0, 6100.0))
    result = mixed_result([mixed_case("on"), dear])
    ((words, case, against, made),) = compared(result)
    assert (case.curve, against.curve) == ("mix-threshold", "mix-on")
    by_name = {change.name: change for change in made}
    assert by_name["p99 TTFT"].ratio.value == pytest.approx(0.061, abs=0.001)
    paid = by_name["median TTFT"].ratio
    assert paid.low is not None and paid.low > 1
    assert "at most 128 of one prompt" in " ".join(losses(result))
    assert finding(result).startswith(f"{words} changes short requests' p99 TTFT 0.06×")


def test_plans_are_compared_with_themselves_only() -> None:
    two = ParallelPlan(tp=2)
    cases = [mixed_case("on"), mixed_case("off", plan=two)]
    assert compared(mixed_result(cases)) == []
    assert finding(mixed_result(cases)) == "No two engines were compared under mixed load"
    cases += [mixed_case("off"), mixed_case("on", plan=two)]
    assert [(case.plan, against.plan) for _, case, against, _ in compared(mixed_result(cases))] == [
        (ParallelPlan(), ParallelPlan()),
        (two, two),
    ]


def test_one_repeat_has_no_interval_and_resolves_nothing() -> None:
    single = [
        mixed_case(name, ttft_ms=[value], halt_ms=[value], long_ms=[5000.0])
        for name, value in (("on", 90.0), ("off", 5000.0))
    ]
    ((_, _, _, made),) = compared(mixed_result(single))
    assert all(change.unresolved for change in made)
    assert "(not resolved from no loss)" in losses(mixed_result(single))[0]


def test_starts_are_the_sample_where_there_are_several() -> None:
    several = mixed_result([mixed_case("on", starts=True), mixed_case("off", starts=True)])
    assert not any("inside one engine start" in line for line in read_fairness(several))
    assert any("inside one engine start" in line for line in read_fairness(on_and_off()))


def test_an_invalid_client_is_compared_with_nothing() -> None:
    result = on_and_off()
    result.cases[0].client = Verdict("INVALID", ["the event loop stood still"], "Run alone")
    assert compared(result) == []
    assert not any(", on" in line for line in losses(result))
    assert "on INVALID" in fairness_shown(result)["engine"].tolist()
    assert any("The client is INVALID in tp1/mix-on" in line for line in read_fairness(result))


def test_failures_leave_a_gap_that_says_why() -> None:
    result = on_and_off()
    for repeat in result.cases[1].repeats:
        repeat["long_failed"] = 1.0
        for key in [key for key in repeat if key.startswith("long_p99")]:
            del repeat[key]
    row = fairness_shown(result).iloc[3]
    assert row["TTFT together s"] == "3 failed"
    assert any("3 requests failed" in line for line in read_fairness(result))
    assert estimate(result.cases[1], "long_p99_ttft_ms") is None


def test_a_figure_that_is_missing_in_one_repeat_is_no_figure() -> None:
    """The repeats in which nothing failed would make the tail look better than it was."""
    result = on_and_off()
    del result.cases[1].repeats[1]["short_p99_ttft_ms"]
    assert estimate(result.cases[1], "short_p99_ttft_ms") is None
    assert "p99 TTFT" not in verdicts(result)[0]


def test_the_table_marks_a_p99_of_few_requests() -> None:
    frame = fairness_shown(on_and_off())
    assert frame["engine"].tolist() == ["on", "on", "off", "off"]
    assert frame["class"].tolist() == ["short^", "long^"] * 2
    assert frame["TTFT together s"].tolist() == ["5", "5.05"] * 2
    assert frame["TTFT slow- down"].tolist()[0] == "100"
    assert frame["starved"].tolist()[0] == "15/96"
    many = on_and_off()
    for case in many.cases:
        for repeat in case.repeats:
            repeat["short_requests"] = 100.0
    assert fairness_shown(many)["class"].tolist() == ["short", "long^"] * 2


def test_it_fits_a_terminal_of_eighty_columns() -> None:
    console = Console(width=80, record=True, highlight=False)
    print_fairness(on_and_off(), console)
    text = console.export_text()
    table = text[: text.index("TTFT: p99")]
    assert max(len(line) for line in table.splitlines()[1:]) <= 80
    assert "…" not in table and "15/96" in table
    legend = text[text.index("TTFT: p99") : text.index("- tp1")]
    assert max(len(line) for line in legend.splitlines()) <= 80
    assert all(f"{column}:" in legend for column in ("halt", "Jain", "starved"))


def test_nothing_measured_is_said() -> None:
    result = mixed_result([failed_case("off")])
    console = Console(width=80, record=True)
    print_fairness(result, console)
    text = console.export_text()
    assert "no case was measured" in text and "vLLM took other settings" in text
    assert fairness_summary(result) == {"tp1/mix-off": {"status": "failed"}}


def test_the_summary_is_json() -> None:
    summary = json.loads(json.dumps(fairness_summary(on_and_off()), allow_nan=False))
    assert summary["tp1/mix-off"]["short_p99_ttft_slowdown"]["low"] > 1
    assert summary["tp1/mix-on over off"]["short_max_itl_ms"]["value"] == 0.25


def requests() -> list[RequestRecord]:
    begin_ns, second = 5_000_000_000, 1_000_000_000
    return [
        RequestRecord(index, "long" if index == 2 else "short", 2, begin_ns + index * second, begin_ns, [at], at)
        for index in range(5)
        for at in [begin_ns + 6 * second]
    ]


def test_figures_show_the_data_and_name_their_source() -> None:
    result = on_and_off()
    records = {case.id: requests() for case in result.cases}
    figure = fairness_figures.waiting(result, records)
    dots = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert [np.asarray(line.get_xdata()).tolist() for line in dots] == [[0, 1, 3, 4]] * 2
    assert [np.asarray(line.get_ydata()).tolist() for line in dots] == [[6, 5, 3, 2]] * 2
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert {float(np.asarray(line.get_xdata())[0]) for line in dashed} == {2.0}
    for drawn in (figure, fairness_figures.costs(result)):
        texts = " ".join(text.get_text() for text in drawn.texts)
        assert "SYNTHETIC" in texts and "standstill of an answer 0.25×" in texts.replace("\n", " ")


def test_figures_without_data_say_so() -> None:
    empty = mixed_result([failed_case("off")])
    for figure in (fairness_figures.waiting(on_and_off(), {}), fairness_figures.costs(empty)):
        assert "no data for this figure" in " ".join(text.get_text() for text in figure.axes[0].texts)
