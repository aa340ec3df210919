from __future__ import annotations

from pathlib import Path

import pytest

from common.core.greedy import Answer
from common.store.answers import KeptAnswers, answers_path, load_answers, save_answers
from common.store.files import RESULT_NAME, StoreError

KEPT = KeptAnswers("tp1/verify/served", [4, 5], [Answer((1, 2), (((1, -0.25), (9, -2.0)), ((2, -0.5),))), Answer((3,))])


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = answers_path(tmp_path / "new", KEPT.case_id, 2)
    save_answers(KEPT, path)
    assert load_answers(path) == KEPT
    assert [found.name for found in path.parent.iterdir()] == ["tp1-verify-served-start2.answers.json"]
    assert not RESULT_NAME.fullmatch(path.name), "it must never pass for a result"


def test_log_probabilities_survive_exactly(tmp_path: Path) -> None:
    value = -0.1234567890123456789
    save_answers(KeptAnswers("x", [], [Answer((1,), (((1, value),),))]), tmp_path / "x.answers.json")
    assert load_answers(tmp_path / "x.answers.json").answers[0].likeliest == (((1, value),),)


@pytest.mark.parametrize("length", [0, 1, 40])
def test_truncated_answers_are_named(tmp_path: Path, length: int) -> None:
    path = answers_path(tmp_path, KEPT.case_id, 0)
    save_answers(KEPT, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"^tp1-verify-served-start0\.answers\.json is truncated") as caught:
        load_answers(path)
    assert "--no-resume" in str(caught.value)


def test_missing_answers_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there"):
        load_answers(tmp_path / "x.answers.json")


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="cannot save"):
        save_answers(KEPT, tmp_path / "taken" / "x.answers.json")
