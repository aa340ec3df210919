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
    words = ["a=78%", "b=28,2", "c=-1", "d=10.5 MB", "e= .5 USD"]
    assert parse_answers(words, quizzes) == ({"a": 78, "b": 28.2, "c": -1, "d": 10.5, "e": 0.5}, [])
    for price in ("$0.743", "0.743$", "0.743"):
        assert parse_answers([f"e={price}"], quizzes) == ({"e": 0.743}, [])


@pytest.mark.parametrize(
    ("word", "why"),
    [
        *((word, "the keys are a, b, c, d, e") for word in ("", "a", "z=1", "=1")),
        *(
            (word, "not a number; write a=0.74")
            for word in ("a=", "a=much", "a=nan", "a=1e99", "a=1=2", "a=$", "a=$$1")
        ),
        ("e=bash.743", "not a number; write e=0.74, or in quotes 'e=$0.74'"),  # what a shell makes of e=$0.743
        ("b=2", "b is answered twice, the first counts"),
    ],
)
def test_what_is_no_answer_is_named_and_the_others_are_kept(word: str, why: str) -> None:
    answers, refused = parse_answers(["b=28", word, "d=10.5"], self_test(full()))
    assert answers == {"b": 28, "d": 10.5}
    (line,) = refused
    assert line.startswith(f"--answers {word}: ") and why in line


def test_answers_add_up_for_one_result_and_not_over_two(tmp_path: Path) -> None:
    store_answers(tmp_path, Path("one.json"), {"a": 1.0, "b": 2.0})
    store_answers(tmp_path, Path("one.json"), {"b": 3.0})
    assert stored_answers(tmp_path) == ("one.json", {"a": 1.0, "b": 3.0})
    store_answers(tmp_path, Path("two.json"), {"c": 4.0})
    assert stored_answers(tmp_path) == ("two.json", {"c": 4.0})
