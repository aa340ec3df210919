from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from common.machine.command_line import several_of, with_whole_lines, wrong_in_one_line


@dataclass(frozen=True)
class Base:
    """Options."""

    size: int = 1
    """A sentence that is long enough to need a second line in this file, which
    ends here.

    Another paragraph."""


@dataclass(frozen=True)
class Options(Base):
    """More options."""

    seed: int = 0
    """One line."""


def test_help_wraps_a_docstring_anew_and_keeps_its_paragraphs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tyro.cli(with_whole_lines(Options), args=["--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    (at,) = [at for at, line in enumerate(lines) if "A sentence that is long" in line]
    assert lines[at].endswith("in this file, which ends here.")
    assert lines[at + 1] == "" and lines[at + 2].startswith("Another paragraph.")
    assert any("One line." in line for line in lines)


@dataclass(frozen=True)
class OfWords:
    """Options of words."""

    curves: Annotated[tuple[Literal["fixed", "weak"], ...] | None, several_of(("fixed", "weak"))] = None


def test_a_wrong_choice_names_the_words_that_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), wrong_in_one_line():
        tyro.cli(OfWords, args=["--curves", "fixd"])
    said = capsys.readouterr().err
    assert "'fixd'" in said and "('fixed', 'weak')" in said, "in one order, without 'None'"
