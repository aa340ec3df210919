"""The results that were measured by whoever uses this checkout, and which of them can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.analysis.frames import RESULTS, load_sound, results_under
from common.analysis.newest import same_command
from common.core.plural import plural
from common.load.bare.answer import MODEL as BARE
from common.store.files import RESULT_NAME, StoreError
from common.store.schema import Result

# What a file that was edited by hand may raise where it is read; nothing else is taken for its fault
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError)


Measured = Sequence[tuple[Path, Result]]
"""Complete results, each with its file."""


@dataclass(frozen=True)
class Shown:
    """What a result shows of what is asked: a figure, or else what is missing."""

    figure: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Finding:
    """The newest result that shows what is asked, with its figure; and what is wrong with all that do not."""

    path: Path | None
    figure: str
    problems: list[str]


@dataclass(frozen=True)
class Evidence:
    """Readable results of ours, newest first, and one line for every file that cannot be read."""

    results: list[tuple[Path, Result]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def unfinished(self) -> list[tuple[Path, str]]:
        """One line for every result of a run that did not come to its end, newest first."""
        return [(path, _unfinished(path, result)) for path, result in self.results if result.status != "complete"]

    def complete(self, experiments: Sequence[str]) -> list[tuple[Path, Result]]:
        """Complete results of these experiments, newest first."""
        return [
            (path, result)
            for path, result in self.results
            if result.experiment in experiments and result.status == "complete"
        ]

    def find(self, experiments: Sequence[str], assess: Callable[[Result], Shown]) -> Finding:
        """The newest complete result of these experiments that shows what is asked."""
        problems = [line for path, line in self.unreadable if path.parent.name in experiments]
        for path, result in self.results:
            if result.experiment not in experiments:
                continue
            shown = judged(assess, result)
            if result.status != "complete":
                problems.append(_unfinished(path, result))
            elif shown.figure:
                return Finding(path, shown.figure, problems)
            else:
                problems.append(f"{path.name}: {shown.missing}{_failures(result)}")
        return Finding(None, "", problems)


def gather(results: Path) -> Evidence:
    """Everything under `results/<experiment>/`; committed references, and what others shared, stand elsewhere."""
    evidence = Evidence()
    committed = {path.stem for path in results_under(RESULTS / "reference")}  # a file is named after its run
    found = [path for path in results.expanduser().glob("*/*.json") if RESULT_NAME.fullmatch(path.name)]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        try:
            result = load_sound(path)
        except StoreError as error:
            evidence.unreadable.append((path, str(error).replace(str(path), path.name)))
            continue
        except UNREADABLE as error:
            evidence.unreadable.append((path, f"{path.name} cannot be read ({error}); move it away"))
            continue
        if result.experiment != path.parent.name:
            line = f"{path.name} is of {result.experiment}, and lies in {path.parent.name}/; move it back"
            evidence.unreadable.append((path, line))
        elif result.run_id in committed:
            line = f"{path.name} is a copy of a committed reference; what you measure yourself counts"
            evidence.unreadable.append((path, line))
        elif result.config.get("external") and result.config.get("model") == BARE:
            line = f"{path.name} is of the lab's bare server, to practise on: no engine was measured"
            evidence.unreadable.append((path, line))
        elif not has_sound_numbers(result):
            line = f"{path.name} holds numbers that the lab does not write; measure again"
            evidence.unreadable.append((path, line))
        else:
            evidence.results.append((path, result))
    return evidence


def judged(assess: Callable[[Result], Shown], result: Result) -> Shown:
    """What a result shows; a file that was edited by hand shows nothing, whatever it holds."""
    try:
        return assess(result)
    except UNREADABLE:
        return Shown(missing="it holds what the lab does not write; measure again")


def has_sound_numbers(result: Result) -> bool:
    """Whether throughput is a finite number that is not negative, and nothing is NaN."""
    repeats = [repeat for case in result.cases for repeat in case.repeats]
    rates = [repeat.get("output_throughput", 1.0) for repeat in repeats]
    return all(0 <= rate < math.inf for rate in rates) and not any(
        math.isnan(value) for repeat in repeats for value in repeat.values()
    )


def _unfinished(path: Path, result: Result) -> str:
    measured = sum(case.status == "ok" and bool(case.repeats) for case in result.cases)
    state = "running, or killed" if result.status == "running" else result.status
    progress = f"{state}, {plural(measured, 'case')} measured{_failures(result)}"
    return f"{path.name} is unfinished ({progress}): give {same_command(result)}"


def _failures(result: Result) -> str:
    """The first failed case with its reason, and how many more there are."""
    failed = [case for case in result.cases if case.status == "failed"]
    if not failed:
        return ""
    reason = f": {failed[0].error.message}" if failed[0].error else ""
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"; {failed[0].id} failed{reason}{more}"
