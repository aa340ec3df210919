"""Right answers follow from the numbers in the question, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.analysis.learning.self_test import check, parse_answers, self_test, store_answers, stored_answers
from tests.analysis.planted import TP1, TP2, case, full, result


def test_right_answers_by_hand() -> None:
    quizzes = {quiz.key: quiz for quiz in self_test(full())}
    assert "At 16 streams tp1 (1 device) gives 100 tok/s and tp2 (2 devices) 156." in quizzes["a"].text
    assert quizzes["a"].right == pytest.approx(78.0)
    assert "speed-up of 1.56 on 2 devices" in quizzes["b"].text
    assert quizzes["b"].right == pytest.approx(100 * (1 / 1.56 - 0.5) / 0.5)
    assert "8 layers, each with two all-reduces" in quizzes["c"].text
    assert "One takes 60 us, a step 103 ms" in quizzes["c"].text
    assert quizzes["c"].right == pytest.approx(100 * 17 * 60e-6 / 0.103)
    assert "10.5 million weights of 2 bytes" in quizzes["d"].text
    assert quizzes["d"].right == pytest.approx(10.5)
    assert "At $1.2 per hour" in quizzes["e"].text
    assert quizzes["e"].right == pytest.approx(1.2 / 3600 * 1e6 / 156)


def test_rounding_is_forgiven_and_another_formula_is_not() -> None:
    quizzes = self_test(full())
    rounded = {"a": 78, "b": 28, "c": 1.0, "d": 10.5, "e": 2.14}
    assert all(line.endswith(": right") for line in check(quizzes, rounded))
    wrong = {"a": 156, "b": 64, "c": 0.5, "d": 21, "e": 214}
    lines = check(quizzes, wrong)
    assert all("is not it" in line for line in lines)
    assert not any(f"{quiz.right:.3g}" in line for quiz, line in zip(quizzes, lines, strict=True)), "not given away"
    assert check(quizzes, {})[0] == "a: open"


def test_without_a_split_there_is_nothing_to_ask() -> None:
    assert self_test(result([])) == []
    assert self_test(result([case(TP1, "fixed", 1, [1.0])])) == []
    assert self_test(result([case(TP2, "fixed", 1, [1.0])])) == []


def test_what_was_not_measured_is_not_asked() -> None:
    cases = [case(TP1, "fixed", 1, [1.0]), case(TP2, "fixed", 1, [1.5])]
    cases[1].engine.pop("all_reduce")
    assert [quiz.key for quiz in self_test(result(cases))] == ["a", "b", "d", "e"]


def test_answers_are_read_as_a_person_writes_them() -> None:
    quizzes = self_test(full())
    assert parse_answers(["a=78%", "b=28,2", "c=-1", "e= .5 USD"], quizzes) == {"a": 78, "b": 28.2, "c": -1, "e": 0.5}
    for word in ("", "a", "a=", "a=much", "z=1", "=1", "a=nan", "a=1e99", "a=1=2"):
        with pytest.raises(ValueError, match="--answers"):
            parse_answers([word], quizzes)
    with pytest.raises(ValueError, match="twice"):
        parse_answers(["a=1", "a=2"], quizzes)


def test_answers_add_up_for_one_result_and_not_over_two(tmp_path: Path) -> None:
    store_answers(tmp_path, Path("one.json"), {"a": 1.0, "b": 2.0})
    store_answers(tmp_path, Path("one.json"), {"b": 3.0})
    assert stored_answers(tmp_path) == ("one.json", {"a": 1.0, "b": 3.0})
    store_answers(tmp_path, Path("two.json"), {"c": 4.0})
    assert stored_answers(tmp_path) == ("two.json", {"c": 4.0})
