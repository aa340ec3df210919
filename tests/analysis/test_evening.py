"""The evening read as a whole: what its own tables count, and how they are printed."""

from __future__ import annotations

import pytest
from rich.console import Console

from common.analysis.evening.plans import evening_summary, latency_shown, plan_rows, print_evening
from common.core.verdict import Verdict
from common.store.schema import Case, Result
from tests.analysis.planted import TP1, TP2, case, result
from tests.analysis.planted_concurrency import LADDER, closed


def invalid(made: Case) -> Case:
    made.client = Verdict("INVALID", ["the client was late"], "Use a machine of its own for the client")
    return made


def evening() -> Result:
    """With long names, dollars and intervals: the widest that its tables get."""
    rates = [12345.0, 12400.0, 12500.0]
    cases = [case(plan, "fixed", 16, [rate * plan.tp**0.5 for rate in rates]) for plan in (TP1, TP2)]
    cases += [closed(plan, clients, plan.tp * 1e3) for plan in (TP1, TP2) for clients in LADDER]
    cases[-1].client = cases[0].client = Verdict("DOUBTFUL", ["client and devices share cores"], "Read it with care")
    return result(cases, cost={"usd_per_hour": 123.0}, experiment="run_distributed_benchmark")


def test_a_start_counts_once_and_an_invalid_client_is_named() -> None:
    alone = case(TP1, "latency-32-32", 1, [10.0, 40.0], one_start=False)
    alone.repeats.append(alone.repeats[1] | {"repeat": 1.0})
    wrong = invalid(case(TP2, "latency-32-32", 1, [1.0, 1.0]))
    shown = latency_shown(result([alone, wrong]))
    assert list(shown["plan"]) == ["tp1", "tp2 INVALID"]
    assert shown["TPOT ms"][0] == "50", "of 100 ms in one start and 25 ms in the other, which was repeated"


def test_no_plan_is_chosen_by_an_invalid_client() -> None:
    cases = [case(TP1, "fixed", 1, [10.0] * 3), invalid(case(TP1, "fixed", 16, [99.0] * 3))]
    cases += [closed(TP1, 4), invalid(closed(TP1, 16))]
    (row,) = plan_rows(result(cases))
    assert row.load == 1 and row.within_limits is not None and row.within_limits.load == 4


def test_its_tables_fit_eighty_columns_and_no_sentence_is_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    print_evening(evening(), Console(width=80, highlight=False, force_terminal=False))
    out = capsys.readouterr().out
    for title in ("Scaling", "Concurrency", "each where it earns most", "each within the limits"):
        assert title in out
    assert "…" not in out
    said = [line for line in out.splitlines() if line.startswith("- ")]
    assert len(said) == len(set(said)) > 3
    assert sum("The client is DOUBTFUL" in line for line in said) == 1


def test_the_summary_names_what_it_holds() -> None:
    tp2 = evening_summary(evening())["plans"]["tp2"]
    assert tp2["output_throughput_within_limits"] == pytest.approx(2e3 * 16 / (1 + 15 / 17) * 32, rel=1e-3)
