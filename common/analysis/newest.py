"""Which result is meant where none is named: the newest of one's own that has something to show."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from common.core.plural import plural
from common.store.files import RESULT_NAME, StoreError, load
from common.store.schema import Result

STATES = {"running": "still running, or killed", "interrupted": "interrupted", "complete": "run to its end"}


def newest_of_ours(results: Path) -> tuple[Path | None, str]:
    """The newest result that was measured here and has a measured row; in a line, what could have been meant instead.

    That is newer ones that have no row, and of a run that did not end an older one that did. Of any experiment;
    references and what others shared are left out. None where no result here has a row.

    Raises:
        StoreError: the newest, or a file between it and the newest with a row, cannot be read.
    """
    found = [path for path in results.glob("*/*.json") if RESULT_NAME.fullmatch(path.name)]
    found.sort(key=lambda path: path.name, reverse=True)
    newer: list[tuple[Path, Result]] = []
    for place, path in enumerate(found):
        result = load(path)
        if not is_empty(result):
            words = [f"{_empty(newer)}; this is {path.name}"] if newer else []
            return path, "; ".join([*words, *_ended_instead(result, found[place + 1 :])])
        newer.append((path, result))
    return None, _empty(newer) if newer else ""


def _ended_instead(result: Result, older: Sequence[Path]) -> list[str]:
    if result.status == "complete":
        return []
    for path in older:
        with contextlib.suppress(StoreError):  # it is not the one that was asked for
            if path.parent.name == result.experiment and (found := load(path)).status == "complete":
                state = STATES[result.status]
                return [] if is_empty(found) else [f"{result.run_id} is {state}; name {path} for the newest that ended"]
    return []


def same_command(result: Result) -> str:
    """The command that goes on with an unfinished run: its own, but for a --no-resume, which would start afresh."""
    return "the same command without --no-resume" if "--no-resume" in result.argv else "the same command again"


def is_empty(result: Result) -> bool:
    """Whether nothing of it was measured."""
    return not any(case.repeats for case in result.cases)


def empty_words(name: str, result: Result) -> str:
    """That a result has no measured row, and how its run stands."""
    failed = sum(case.status == "failed" for case in result.cases)
    failures = f", {plural(failed, 'case')} failed" if failed else ""
    return f"{name} has no measured row ({STATES[result.status]}{failures})"


def _empty(newer: list[tuple[Path, Result]]) -> str:
    path, result = newer[0]
    others = f", nor have {len(newer) - 1} before it" if len(newer) > 1 else ""
    return f"{empty_words(str(path), result)}{others}; name it to take it all the same"
