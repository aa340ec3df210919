"""The table as a reader sees it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from common.analysis.scaling.table import memory_shown, print_scaling, shown
from common.store.schema import Check, Result
from tests.analysis.planted import TP1, TP2, TP4, case, full, result, skipped


def printed(read: Result, terminal: bool = False) -> str:
    stream = io.StringIO()
    print_scaling(read, Console(file=stream, width=80, force_terminal=terminal, highlight=False))
    return stream.getvalue()


def line_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if line.split()[: len(words)] == list(words))


def test_rows_say_what_was_measured() -> None:
    text = printed(full())
    words = line_of(text, "saturated", "tp2").split()
    assert words == ["saturated", "tp2", "64", "200", "1600", "320", "1.67", "[1.60,", "1.74]", "83%", "1.67"]
    assert line_of(text, "saturated", "tp1").split()[-2:] == ["base", "2.78"]
    assert line_of(text, "tp2").split() == ["tp2", "10.5", "10.5", "1500", "1048576", "42.0"]


def test_the_table_fits_eighty_columns_whatever_is_in_it() -> None:
    wide = [case(plan, "saturated", 1024, [20_000.0 * plan.tp, 29_000.0 * plan.tp, 38_000.0]) for plan in (TP1, TP4)]
    for read in (full(), result(wide, cost={"usd_per_hour": 98.32})):
        table = printed(read).split("\n- ")[0]
        assert max(map(len, table.splitlines())) <= 80
    assert "…" not in printed(result(wide, cost={"usd_per_hour": 98.32}))


def test_cases_without_numbers_stand_below_with_their_reason() -> None:
    text = printed(full())
    table, reading = text.split("Memory", 1)
    assert "tp4" not in table
    assert "tp4 skipped (fixed, weak): tp4 needs 4 devices, this machine has 2. Use --tp 2." in reading
    assert "tp1x2 failed (saturated): no memory for the second replica. Use tp2." in reading
    assert "Doubtful: tp2/fixed/c16 fails the check 'first repeat agrees'" in reading
    assert "the base, so speed-ups over it" not in reading
    assert "the machine was busy before the run" in reading
    assert "tp2 still gained at 64 streams, the most tried" in reading
    assert "numbers do not: slices share memory" in reading


def test_a_doubtful_base_makes_what_is_compared_with_it_doubtful() -> None:
    base = case(TP1, "fixed", 1, [7.0, 10.0, 10.0])
    base.checks = [Check("first repeat agrees", False, "output throughput -30%")]
    (line,) = [line for line in printed(result([base])).splitlines() if "Doubtful" in line]
    assert "speed-ups" not in line, "there are none"
    text = " ".join(printed(result([base, case(TP2, "fixed", 1, [14.0, 15.0, 16.0])])).split())
    assert "-30%; it is the base, so speed-ups over it are doubtful too" in text


@pytest.mark.parametrize(
    ("status", "argv", "words"),
    [
        ("interrupted", [], "not complete (interrupted): the same command again goes on"),
        ("interrupted", ["--no-resume"], "the same command without --no-resume goes on"),
        ("running", [], "not complete (still running, or killed)"),
    ],
)
def test_a_run_that_did_not_end_says_so_and_how_it_does(status: str, argv: list[str], words: str) -> None:
    unfinished = result([case(TP1, "fixed", 1, [1.0])], status=status, argv=argv)
    assert words in " ".join(printed(unfinished).split())


def test_more_than_a_whole_device_is_explained_where_it_comes_from_the_batch() -> None:
    words = "a step reads the weights once for all of its streams"
    base = case(TP1, "weak", 8, [10.0, 10.1])
    more, less = (case(TP2, "weak", 16, rates) for rates in ([24.0, 24.1], [18.0, 18.1]))
    assert words in " ".join(printed(result([base, more])).split())
    assert words not in " ".join(printed(result([base, less])).split())


def test_oversubscribed_plans_are_marked() -> None:
    beyond = case(TP2, "fixed", 1, [12.0, 13.0])
    beyond.flags = ["oversubscribed"]
    text = printed(result([case(TP1, "fixed", 1, [10.0, 11.0]), beyond]))
    assert line_of(text, "fixed", "tp2*")
    assert "* more devices than the machine has" in text


def test_prices_appear_only_with_a_price() -> None:
    assert "$/M out" in shown(full()).columns
    unpriced = result([case(TP1, "fixed", 1, [10.0])])
    assert "$/M out" not in shown(unpriced).columns
    assert "$" not in printed(unpriced)


def test_nothing_measured_is_said_without_a_crash() -> None:
    for read in (result([]), result([skipped(TP2, "fixed", 1)])):
        assert shown(read).empty and memory_shown(read).empty
        assert "no case was measured" in printed(read)


@pytest.mark.parametrize("no_color", [True, False])
def test_colour_obeys_the_reader(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(full(), terminal=True)
    assert "\x1b[3" not in text.replace("\x1b[3m", "")  # no colour either way: the table needs none
