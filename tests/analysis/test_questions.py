"""Each experiment's question finds its case before the run and its answer after it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from common.analysis.learning.questions import QUESTIONS, SHORT_WAIT, guess_lines, print_guess
from common.core.stats import Estimate
from common.store.schema import Guess
from tests.analysis.planted import TP1, TP2, TP4, X2, case, full, result


def test_scaling_asks_about_the_largest_split_where_every_slot_is_busy() -> None:
    kind = QUESTIONS["benchmark_scaling"]
    asked = kind.ask(full().cases)
    assert asked is not None
    assert asked.case == "tp2/saturated/c64"
    assert asked.text == "How many times faster will tp2 be than tp1 with every slot busy?"
    answer = kind.answer(full(), asked.case)
    assert answer is not None
    assert answer.value == pytest.approx(200 / 120, rel=1e-3)


def test_without_saturation_it_asks_about_the_heaviest_load() -> None:
    cases = [case(plan, "fixed", streams, []) for plan in (TP1, TP2, TP4, X2) for streams in (1, 16)]
    asked = QUESTIONS["benchmark_scaling"].ask(cases)
    assert asked is not None
    assert asked.text == "How many times faster will tp4 be than tp1 at 16 streams?"


@pytest.mark.parametrize("plans", [(), (TP1,), (TP2,), (TP1, X2)])
def test_where_no_plan_splits_more_than_another_scaling_asks_nothing(plans: tuple[object, ...]) -> None:
    cases = [case(plan, "fixed", 1, []) for plan in plans]  # type: ignore[arg-type]
    assert QUESTIONS["benchmark_scaling"].ask(cases) is None


def test_concurrency_asks_what_more_streams_bring() -> None:
    cases = [case(TP1, "ladder", streams, [rate]) for streams, rate in ((1, 10.0), (8, 50.0), (64, 90.0))]
    kind = QUESTIONS["simulate_concurrent_requests"]
    asked = kind.ask(cases)
    assert asked is not None
    assert asked.text == "How many times the tokens per second of 1 stream will 64 streams give (tp1)?"
    answer = kind.answer(result(cases), asked.case)
    assert answer is not None
    assert answer.value == pytest.approx(9.0)
    assert kind.ask(cases[:1]) is None
    cases[0].repeats = []
    unmeasured = kind.answer(result(cases), asked.case)
    assert unmeasured is None or unmeasured.value == pytest.approx(90 / 50), "against the lightest that was measured"


def test_verification_asks_for_the_share_of_the_weights() -> None:
    kind = QUESTIONS["test_tensor_parallel"]
    cases = [case(TP1, "fixed", 1, [1.0]), case(TP2, "fixed", 1, [1.0])]
    asked = kind.ask(cases)
    assert asked is not None
    assert kind.answer(result(cases), asked.case) is None, "nothing was counted"
    cases[1].predicted = [Estimate("weight_bytes_per_rank", "B", 5e8), Estimate("weight_share", "%", 50.1)]
    cases[1].summary = [Estimate("weight_share", "%", 50.2)]
    guessed = result(cases, guess=Guess(asked.text, "%", asked.case, 60.0), experiment="test_tensor_parallel")
    assert guess_lines(guessed)[:3] == ["you guessed  60%", "predicted    50.1%", "measured     50.2%"]
    assert kind.ask(cases[:1]) is None


def test_a_mixed_load_asks_what_short_requests_lose() -> None:
    kind = QUESTIONS["test_mixed_workload"]
    mixed = [case(TP1, curve, 1, [1.0, 1.0]) for curve in ("mix-on", "mix-off")]
    asked = kind.ask(mixed)
    assert asked is not None
    assert asked.text.startswith("Chunked prefill is off: how many times their p99 TTFT alone")
    assert asked.case == mixed[1].id
    assert kind.answer(result(mixed), asked.case) is None
    for repeat, slowdown in zip(mixed[1].repeats, (2.0, 8.0), strict=True):
        repeat[SHORT_WAIT] = slowdown
    answer = kind.answer(result(mixed), asked.case)
    assert answer is not None
    assert answer.value == pytest.approx(4.0)
    assert answer.low is not None
    only = kind.ask(mixed[:1])
    assert only is not None
    assert only.text.startswith("The engine is 'on'")
    assert kind.ask([case(TP1, "fixed", 1, [])]) is None


def test_a_guess_whose_case_failed_says_so() -> None:
    stream = io.StringIO()
    read = result([case(TP1, "fixed", 1, [1.0])], guess=Guess("How many?", "x", "tp2/fixed/c1", 1.5))
    print_guess(read, Console(file=stream, width=80))
    assert "measured     nothing" in stream.getvalue()
    assert "was not measured" in stream.getvalue()
    stream = io.StringIO()
    print_guess(full(), Console(file=stream, width=80))
    assert stream.getvalue() == "", "nobody guessed"
