"""A result in words: Markdown, and an HTML page with the same words and figures, of whatever it has something for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.analysis.concurrency.reading import read_concurrency
from common.analysis.concurrency.rows import concurrency_rows
from common.analysis.concurrency.table import shown as concurrency_shown
from common.analysis.evening.plans import recommendation, sections
from common.analysis.fairness.reading import mixes, read_fairness
from common.analysis.fairness.table import fairness_shown
from common.analysis.learning.beliefs import sentences
from common.analysis.learning.questions import guess_lines
from common.analysis.page import as_page, joined, listed, table
from common.analysis.scaling import figures
from common.analysis.scaling.reading import read_scaling
from common.analysis.scaling.rows import scaling_rows
from common.analysis.scaling.table import memory_shown
from common.analysis.scaling.table import shown as scaling_shown
from common.analysis.verification.judgement import verified
from common.analysis.verification.table import memory_shown as weights_shown
from common.analysis.verification.table import read_verification, verdicts_shown
from common.analysis.views import Account, drawings
from common.analysis.wording import about
from common.store.schema import Result

EVENING = "run_distributed_benchmark"


def write_report(result: Result, stem: Path) -> list[Path]:
    """Write `<stem>.report/` with `report.md`, `report.html` and the figures; the two files' paths.

    The page loads nothing from outside: its figures are inside it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = stem.with_name(f"{stem.name}.report")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = drawings(result)
    for name, draw in drawn.items():
        draw(result).savefig(folder / f"{name}.png", dpi=figures.DPI)
    text = markdown(result, {name: f"{name}.png" for name in drawn})
    paths = [folder / "report.md", folder / "report.html"]
    paths[0].write_text(text, encoding="utf-8")
    paths[1].write_text(as_page(text, folder, about(result)), encoding="utf-8")
    return paths


def markdown(result: Result, pictures: Mapping[str, str], account: Account | None = None) -> str:
    """The text about everything that the result holds; `pictures` are the files of its figures, by name."""
    parts = [f"# {about(result)}"]
    if result.experiment == EVENING:
        parts += [recommendation(result)]
    if scaling_rows(result):
        parts += ["## Scaling", _pictures(pictures, [*figures.FIGURES])]
        parts += [table(scaling_shown(result)), listed(read_scaling(result)), "### Memory", table(memory_shown(result))]
    if account is not None:
        parts += [f"## {account.title}", _pictures(pictures, [*account.figures])]
        parts += ["\n".join(["```", *account.table, "```"]) if account.table else "", listed(account.sentences)]
    if verified(result):
        parts += ["## Does tensor parallelism work", table(verdicts_shown(result)), table(weights_shown(result))]
        parts += [listed(read_verification(result))]
    if concurrency_rows(result, "closed") or concurrency_rows(result, "open"):
        parts += ["## Many clients", _pictures(pictures, ["concurrency", "batch"])]
        parts += [table(concurrency_shown(result)), listed(read_concurrency(result))]
    if mixes(result):
        parts += ["## Mixed load", _pictures(pictures, ["mixed-load"])]
        parts += [table(fairness_shown(result)), listed(read_fairness(result))]
    for title, frame in sections(result) if result.experiment == EVENING else []:
        parts += [f"## {title}", table(frame)]
    if believed := sentences(result):
        parts += ["## Often believed", listed(believed)]
    if guessed := guess_lines(result):
        parts += ["## Your guess", listed(guessed)]
    return joined(parts)


def _pictures(pictures: Mapping[str, str], names: list[str]) -> str:
    return "\n\n".join(f"![{name}]({pictures[name]})" for name in names if name in pictures)
