"""What of this week is done, what is not yet, and what this machine cannot do?

Question.    Which parts of the week do your own results show?
Method.      Reads results/, nothing else. Committed references tick nothing, and a result that is deleted, unfinished,
             truncated or edited into something the lab does not write ticks nothing either: it is named.
Reading.     done               shown by the file that is named, with its figure
             not yet            the command below the item does it
             not possible here  this machine lacks what it needs; it does not count against you
             Exit code 0 when everything that is possible is done, else 1.

Examples:
  python checklist.py                              # the list
  python checklist.py --answers                    # a self-test with numbers of your own results
  python checklist.py --answers a=75 b=32.5        # the same, answered on the command line
  python checklist.py --usd-per-hour 0.05          # the price of what was measured without one; measures nothing
  python checklist.py --write-configuration        # results/my_configuration.md, from your newest scaling result
  python checklist.py --json                       # for scripts
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.learning.checklist import ANY, OPEN, SCALING, Here, checklist
from common.analysis.learning.checklist_table import as_document, print_checklist
from common.analysis.learning.configuration import write_configuration
from common.analysis.learning.cost import MOST_USD_PER_HOUR, note_price
from common.analysis.learning.evidence import Evidence, gather
from common.analysis.learning.self_test import Quiz, askable, check, parse_answers, self_test, store_answers
from common.experiment.loss import shows_loss
from common.experiment.options import BAD_INPUT, RESULTS, InputError, parse
from common.experiment.view import say_plainly
from common.machine.command_line import optional
from common.machine.devices import DeviceError, find_machine
from common.machine.reader import while_read

RENTED = ("RUNPOD_POD_ID",)  # set by providers on their machines


@dataclass(frozen=True)
class ChecklistOptions:
    """Options of the checklist."""

    results_dir: Path = RESULTS
    """Where your results are."""
    answers: Annotated[tuple[str, ...] | None, optional("[KEY=NUMBER ...]")] = None
    """Answer the self-test: alone, it asks (or, without a terminal, prints the questions)."""
    write_configuration: bool = False
    """Write my_configuration.md from the newest scaling result; your notes in it are kept."""
    usd_per_hour: Annotated[float | None, optional("FLOAT")] = None
    """Note what the machine of your newest result costs per hour, where it was measured without a price; for
    this list alone."""
    json: bool = False
    """Print the list as one JSON document."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a price out of its range.
        """
        if self.usd_per_hour is not None and not 0 < self.usd_per_hour < MOST_USD_PER_HOUR:
            raise InputError(f"--usd-per-hour {self.usd_per_hour:g}: the price of the whole machine, as in 7.60")


def main() -> int:
    """Read, act where asked to, print the list, and return the exit code."""
    options = parse(ChecklistOptions, __doc__ or "")
    results = options.results_dir.expanduser().absolute()
    if not results.is_dir():
        say_plainly(f"note: {results} does not exist: nothing was measured there yet, or --results-dir is mistyped")
    evidence, refused = gather(results), False
    try:
        if options.usd_per_hour is not None:
            say_plainly(
                f"noted for this list alone: {note_price(evidence.complete(ANY), results, options.usd_per_hour)}"
            )
        if options.write_configuration:
            say_plainly(f"written: {write_configuration(evidence.complete(SCALING), results)}")
        if options.answers is not None:
            refused = take_answers(evidence, results, options.answers)
    except (ValueError, OSError) as error:
        say_plainly(f"error: {error}")
        return BAD_INPUT
    here = Here(results, devices_here(), any(name in os.environ for name in RENTED))
    items = checklist(evidence, here, shows_loss)
    if options.json:
        sys.stdout.write(json.dumps(as_document(items, results), indent=1) + "\n")
    else:
        print_checklist(items, evidence, results)
    if refused:
        return BAD_INPUT
    return 1 if any(item.state == OPEN for item in items) else 0


def devices_here() -> int | None:
    """Devices of this machine; None where they cannot be counted."""
    try:
        return len(find_machine().devices)
    except (DeviceError, OSError):
        return None


def take_answers(evidence: Evidence, results: Path, words: Sequence[str]) -> bool:
    """Ask, or take from the command line; keep those that are answers; say what is right; whether any was refused.

    Raises:
        ValueError: no result to ask about.
    """
    rounds = askable(evidence.complete(SCALING))
    if not rounds:
        raise ValueError("the self-test asks about a scaling result of yours: run week5/benchmark_scaling.py first")
    path, result = rounds[0]
    quizzes = self_test(result)
    say_plainly(f"about {path.name}")
    given, refused = parse_answers(words, quizzes) if words else asked(quizzes)
    for line in refused:
        say_plainly(f"error: {line}")
    if given:
        store_answers(results, path, given)
        for line in check([quiz for quiz in quizzes if quiz.key in given], given):
            say_plainly(line)
    return bool(refused)


def asked(quizzes: Sequence[Quiz]) -> tuple[dict[str, float], list[str]]:
    """The answers that a person types, and what was none; without a terminal the questions are printed, that is all."""
    on_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    answers: dict[str, float] = {}
    refused: list[str] = []
    for quiz in quizzes:
        say_plainly(f"{quiz.key}. {quiz.text}")
        if not on_terminal:
            continue
        sys.stderr.write(f"   {quiz.key} = ")
        sys.stderr.flush()
        line = sys.stdin.readline().strip()
        if line:
            answer, wrong = parse_answers([f"{quiz.key}={line}"], quizzes)
            answers, refused = answers | answer, refused + wrong
    if not on_terminal:
        say_plainly("answer with --answers " + " ".join(f"{quiz.key}=..." for quiz in quizzes))
    return answers, refused


if __name__ == "__main__":
    sys.exit(while_read(main))
