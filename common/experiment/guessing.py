"""The guess that a person makes before a run: asked on a terminal, or given with `--guess`."""

from __future__ import annotations

import math
import os
import re
import select
import sys
from collections.abc import Sequence

from common.analysis.learning.questions import QUESTIONS, Asked
from common.experiment.options import InputError
from common.experiment.view import say_plainly
from common.store.schema import Case, Guess, Result

PATIENCE_S = 60.0  # a run that nobody watches must not wait, and be paid for, until somebody comes
TRIES = 3


def question_of(experiment: str, cases: Sequence[Case]) -> Asked | None:
    """What an experiment asks about these cases to be; `None` where there is nothing to guess."""
    kind = QUESTIONS.get(experiment)
    return kind.ask(cases) if kind else None


def check_guess(given: float | None, asked: Asked | None, experiment: str) -> None:
    """Check that a guess on the command line answers something, and say what it answers, with its unit.

    Raises:
        InputError: these cases have no number to guess.
    """
    if given is not None and asked is None:
        raise InputError("--guess: these cases compare nothing that could be guessed; leave it out")
    if given is not None and asked is not None:
        unit = QUESTIONS[experiment].unit
        say_plainly(f"your guess, {given:g} {unit}: {asked.text}")
        if unit == "%" and given < 1:
            say_plainly(f"note: {given:g} is taken for {given:g} %; if a share was meant, write {100 * given:g}")


def say_question(asked: Asked | None, experiment: str) -> None:
    """Say in a dry run what `--guess` would answer, and in which unit."""
    if asked is not None:
        say_plainly(f"guess first, if you like (--guess NUMBER, in {QUESTIONS[experiment].unit}): {asked.text}")


def take_guess(result: Result, asked: Asked | None, given: float | None) -> None:
    """Keep in the result what a person expects: `given`, or what is answered on a terminal.

    A run that goes on keeps its first guess, and takes none once something is measured.
    """
    if asked is None:
        return
    if result.guess is not None or any(case.repeats for case in result.cases):
        if given is not None:
            say_plainly("note: --guess is not taken: a guess comes before the first number of a run")
        return
    unit = QUESTIONS[result.experiment].unit
    value = ask(asked.text, unit) if given is None else given
    if value is not None:
        result.guess = Guess(asked.text, unit, asked.case, value)


def ask(text: str, unit: str) -> float | None:
    """Ask on a terminal; `None` where there is none, for Enter, and where nobody answers within a minute."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)) or _is_in_background():
        return None
    for _ in range(TRIES):
        sys.stderr.write(f"Your guess? {text} (a number, in {unit}; Enter skips; goes on after {PATIENCE_S:.0f} s) ")
        sys.stderr.flush()
        if not select.select([sys.stdin], [], [], PATIENCE_S)[0]:
            say_plainly("")
            return None
        line = sys.stdin.readline().strip()
        if not line:
            return None
        value = parse_guess(line, unit)
        if value is not None:
            return value
        say_plainly(f"'{line[:40]}' is no positive number; write it as in 1.6")
    return None


def _is_in_background() -> bool:
    """Whether reading from the terminal would stop this process, as it does after `&` in a shell."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:
        return False  # a terminal that does not control this process cannot stop it


def parse_guess(line: str, unit: str) -> float | None:
    """A positive number, with its unit or without, with a point or a comma; `None` if it is none."""
    text = line.strip().lower().removesuffix(unit).strip()
    if not re.fullmatch(r"\d+([.,]\d*)?|[.,]\d+", text):
        return None
    value = float(text.replace(",", "."))
    return value if is_guess(value) else None


def is_guess(value: float) -> bool:
    """Whether a number can be somebody's guess of a speed-up, a share, a slowdown."""
    return 0 < value < math.inf
