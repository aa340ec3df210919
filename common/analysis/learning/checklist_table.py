"""The checklist for a terminal of 80 columns, and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from common.analysis.learning.checklist import DONE, IMPOSSIBLE, OPEN, Item
from common.analysis.learning.evidence import Evidence
from common.analysis.scaling.table import empty_table, plain, stdout
from common.machine.folders import typed

MOST_PROBLEMS = 5  # below one command, and of unfinished runs, the newest files first


def print_checklist(items: Sequence[Item], evidence: Evidence, results: Path, console: Console | None = None) -> None:
    """Items with state and evidence; below them the files that show it, what does the rest, and what is not counted."""
    console = console or stdout()
    files = list(dict.fromkeys(item.file for item in items if item.file))
    table = empty_table()
    for name in ("item", "state", "evidence"):
        table.add_column(name, no_wrap=name == "state")
    for item in items:
        mark = f" [{files.index(item.file) + 1}]" if item.file else ""
        table.add_row(item.title, item.state, Text(plain(f"{item.evidence}{mark}")))
    console.print(table)
    done, impossible = (sum(item.state == state for item in items) for state in (DONE, IMPOSSIBLE))
    left = len(items) - done - impossible
    lines = [f"{done} done, {left} not yet, {impossible} not possible here. Files are under {results}:"]
    lines += [f"  [{index}] {_place(path, results)}" for index, path in enumerate(files, 1)]
    for line in [*lines, *_what_is_left(items, evidence), *_not_counted(items, evidence)]:
        console.print(plain(line), soft_wrap=True, markup=False)


def as_document(items: Sequence[Item], results: Path) -> dict[str, Any]:
    """The list for scripts; files are relative to the folder of results."""
    lines = [
        {
            "name": item.name,
            "title": item.title,
            "state": item.state,
            "evidence": item.evidence,
            "file": _place(item.file, results) if item.file else None,
            "command": item.command,
            "problems": item.problems,
        }
        for item in items
    ]
    return {"items": lines, "done": sum(item.state == DONE for item in items), "of": len(items)}


def _what_is_left(items: Sequence[Item], evidence: Evidence) -> list[str]:
    """Each command once, with the items that it does and what stands in their way.

    A file that cannot be read, or is unfinished, stands in the way of several items: `_not_counted` names it once.
    """
    said_below = {line for _, line in (*evidence.unreadable, *evidence.unfinished)}
    lines = []
    for command in dict.fromkeys(item.command for item in items if item.state == OPEN):
        alike = [item for item in items if item.state == OPEN and item.command == command]
        lines += ["", f"{', '.join(item.title for item in alike)}:", f"  {typed(command)}"]
        wrong = [(item.title, line) for item in alike for line in item.problems if line not in said_below]
        named = dict.fromkeys(f"{title}: {line}" if len(alike) > 1 else line for title, line in wrong)
        lines += _shortened([f"  - {line}" for line in named], "  - ")
    return lines


def _not_counted(items: Sequence[Item], evidence: Evidence) -> list[str]:
    """Files that cannot be read, and the unfinished ones that an open item would need, each once."""
    needed = {line for item in items if item.state == OPEN for line in item.problems}
    begun = [(path, line) for path, line in evidence.unfinished if line in needed]
    named, unfinished = (
        [f"not counted: {path.parent.name}: {line}" for path, line in found] for found in (evidence.unreadable, begun)
    )
    lines = [*named, *_shortened(unfinished, "not counted: ")]
    return ["", *lines] if lines else []


def _shortened(lines: list[str], mark: str) -> list[str]:
    more = [f"{mark}and {len(lines) - MOST_PROBLEMS} more"] if len(lines) > MOST_PROBLEMS else []
    return [*lines[:MOST_PROBLEMS], *more]


def _place(path: Path, results: Path) -> str:
    return path.relative_to(results).as_posix()
