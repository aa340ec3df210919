"""Rows, knees, sentences and figures of a concurrency result whose truth is planted."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from common.analysis.concurrency import figures as concurrency_figures
from common.analysis.concurrency.reading import read_concurrency
from common.analysis.concurrency.rows import batch_rows, concurrency_rows, found, most_within_limits
from common.analysis.concurrency.table import concurrency_summary, print_concurrency
from common.analysis.scaling.reading import WITHIN_RUN, WITHIN_START
from common.core.verdict import Verdict
from common.core.workload import Workload
from common.store.schema import CaseError
from tests.analysis.planted import TP1
from tests.analysis.planted_concurrency import LADDER, batch, closed, full, offline, result


def test_rows_are_in_order_and_hold_what_was_planted() -> None:
    rows = concurrency_rows(full(), "closed")
    assert [(row.who, row.load) for row in rows] == [(plan, load) for plan in ("tp1", "tp2") for load in LADDER]
    first = rows[0]
    assert first.throughput.value == pytest.approx(32, rel=1e-4)
    assert [first.ttft_ms, first.ttft_p99_ms] == pytest.approx([100, 200], rel=1e-4)
    assert first.fairness is None and rows[1].fairness == pytest.approx(0.99) and rows[2].queue_ms == 32
    assert all(row.thin for row in rows if row.load < 64) and not rows[3].thin


def test_the_planted_knee_is_found() -> None:
    for one in found(full()):
        assert one.knee is not None and one.knee.resolved and one.knee.load == 16
        assert one.saturation.load is None
        best = most_within_limits(one.rows)
        assert best is not None and best.load == 16


def test_noise_leaves_the_knee_unresolved_and_says_so() -> None:
    noisy = result([closed(TP1, clients, off=(0.5, 1.0, 1.5)) for clients in LADDER])
    (one,) = found(noisy)
    assert one.knee is not None and not one.knee.resolved
    assert any("the knee is unresolved" in line and "overlap" in line for line in read_concurrency(noisy))


def test_one_load_says_nothing_of_more() -> None:
    lines = read_concurrency(result([closed(TP1, 4)]))
    assert "tp1: a knee needs three loads, this has 1; what more load would gain was not tried." in lines


def test_a_case_whose_client_made_the_numbers_is_no_point() -> None:
    cases = [closed(TP1, clients) for clients in LADDER]
    cases[2].client = Verdict("INVALID", ["slots were idle"], "less load")
    (one,) = found(result(cases))
    assert one.knee is not None and one.knee.load != 16
    cases[2].client, cases[1].client = None, Verdict("INVALID", ["slots were idle"], "less load")
    (one,) = found(result(cases))
    assert one.knee is not None and one.knee.load == 16
    assert one.knee.between == (4, 16) and not one.knee.resolved and "INVALID" in one.knee.why_not
    unbelieved = batch(TP1, (1.1, 1.1))
    unbelieved.client = Verdict("INVALID", ["halts"], "fewer neighbours")
    assert batch_rows(result([unbelieved])) == []


def test_failed_cases_are_named_and_not_measured() -> None:
    cases = [closed(TP1, clients) for clients in LADDER]
    cases[3].status, cases[3].error = "failed", CaseError("server_gone", "the server no longer serves", "Start it")
    planted = result(cases, external=True)
    assert [row.load for row in concurrency_rows(planted, "closed")] == [1, 4, 16]
    assert "the server failed (closed): the server no longer serves. Start it" in read_concurrency(planted)


def test_intervals_are_spoken_of_where_there_are_some_and_starts_where_they_are_ours() -> None:
    cases = [closed(TP1, clients) for clients in LADDER]
    assert WITHIN_START in read_concurrency(result(cases))
    for case in cases:
        case.flags = ["external"]
    read = read_concurrency(result(cases, external=True))
    assert WITHIN_RUN in read and WITHIN_START not in read
    for case in cases:
        case.repeats = case.repeats[:1]
    assert not any(line.startswith("Intervals") for line in read_concurrency(result(cases, external=True)))
    console = Console(width=80, record=True, highlight=False)
    print_concurrency(result(cases, external=True), console)
    assert "start" not in console.export_text()


def test_a_server_on_the_clients_machine_is_said_to_be_taken_to_use_its_cores() -> None:
    cases = [closed(TP1, clients) for clients in LADDER]
    said = "It answered on the client's own machine, so that it is taken to use the client's cores."
    assert said not in read_concurrency(result(cases, external=True))
    cases[0].flags = ["external", "host_shares_devices"]
    assert said in read_concurrency(result(cases, external=True))


def test_batch_against_singles() -> None:
    one, offline_one, other = batch_rows(full())
    assert (one.way, offline_one.way, other.who) == ("one request", "offline batch", "tp2")
    assert offline_one.gain.value == pytest.approx(1.1, abs=1e-3) and not offline_one.unresolved
    assert one.unresolved and one.gain.value == pytest.approx(1, abs=1e-4)
    assert not other.unresolved and other.gain.low is not None and 1.15 < other.gain.low < 1.2
    assert [row.way for row in batch_rows(result([offline(TP1, (1.1, 1.1))]))] == [], "no singles to compare with"
    other_work = offline(TP1, (1.1, 1.1))
    other_work.workload = Workload(8, 32, 32, 10240)
    assert len(batch_rows(result([batch(TP1, (1.0, 1.0)), other_work]))) == 1
    (single,) = batch_rows(result([batch(TP1, (1.1,))]))
    assert single.unresolved and single.gain.low is None


def test_the_table_fits_eighty_columns_and_says_what_it_means() -> None:
    console = Console(width=80, record=True, highlight=False)
    print_concurrency(full(), console)
    text = console.export_text()
    table = text.partition("\n\n")[0]
    assert all(len(line) <= 80 for line in table.splitlines()[1:])
    assert re.search(r"^tp1 +16 .*0\.990  <", table, re.MULTILINE)
    assert re.search(r"^tp1 +4/s", table, re.MULTILINE)
    for part in (
        "tp1: the knee is at 16 streams",
        "doubling the load still gains 3% or more at 64 streams",
        "tp1: one request with 16 prompts gives 1.00 [",
        "not resolved from no difference",
        "tp1: one offline batch with 16 prompts gives 1.10 [",
        "tp2: one request with 16 prompts gives 1.20 [",
        "90% of requests or more keep ttft 1000 ms and tpot 100 ms up to 16 streams",
        "Identical clients were served alike",
    ):
        assert part in " ".join(text.split()), part


def test_the_last_line_has_every_case_and_the_knees() -> None:
    summary = concurrency_summary(full())
    assert summary["tp1/closed/c16"]["slot_fairness"] == 0.99
    assert summary["tp2/knee"] == {"load": 16, "resolved": True, "between": [16, 16]}
    assert summary["tp2/batch/n16"]["gain"] == pytest.approx(1.2, abs=1e-3)


@pytest.mark.parametrize("name", concurrency_figures.FIGURES)
def test_figures_draw_and_say_their_finding(name: str) -> None:
    figure = concurrency_figures.FIGURES[name](full())
    title = " ".join(figure.texts[0].get_text().split())
    assert (
        "tp1: more than 16 streams cost more waiting than they bring" if name == "concurrency" else "1.20 ["
    ) in title
    figure.canvas.draw()


@pytest.mark.parametrize("name", concurrency_figures.FIGURES)
def test_figures_of_nothing_say_so(name: str) -> None:
    figure = concurrency_figures.FIGURES[name](result([]))
    assert any("no data" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_an_empty_result_is_read_without_an_exception() -> None:
    console = Console(width=80, record=True)
    print_concurrency(result([]), console)
    assert "no case was measured" in console.export_text()
    assert concurrency_summary(result([])) == {}


def test_requests_that_failed_are_said() -> None:
    cases = [closed(TP1, clients) for clients in LADDER]
    cases[1].repeats[0] |= {"failed": 3.0, "num_prompts": 8.0}
    assert any(line.startswith("tp1/closed/c4: 3 of 8 requests failed") for line in read_concurrency(result(cases)))
