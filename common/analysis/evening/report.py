"""The evening's report: one Markdown file and one HTML page with the same words and figures, beside the result."""

from __future__ import annotations

from pathlib import Path

from common.analysis.concurrency.reading import read_concurrency
from common.analysis.concurrency.rows import concurrency_rows
from common.analysis.concurrency.table import shown as concurrency_shown
from common.analysis.evening.plans import recommendation, sections
from common.analysis.fairness.reading import mixes, read_fairness
from common.analysis.fairness.table import fairness_shown
from common.analysis.page import as_page, joined, listed, pictures, table
from common.analysis.scaling import figures
from common.analysis.scaling.reading import about, read_scaling
from common.analysis.scaling.table import memory_shown
from common.analysis.scaling.table import shown as scaling_shown
from common.analysis.verification.judgement import verified
from common.analysis.verification.table import read_verification, verdicts_shown
from common.analysis.views import drawings
from common.store.schema import Result


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
    text = markdown(result, list(drawn))
    paths = [folder / "report.md", folder / "report.html"]
    paths[0].write_text(text, encoding="utf-8")
    paths[1].write_text(as_page(text, folder, about(result)), encoding="utf-8")
    return paths


def markdown(result: Result, drawn: list[str]) -> str:
    """The report's text; `drawn` are the figures that lie beside it."""
    parts = [f"# {about(result)}", recommendation(result), _pictures(drawn, [*figures.FIGURES])]
    parts += ["## Scaling", table(scaling_shown(result)), listed(read_scaling(result))]
    parts += ["### Memory", table(memory_shown(result))]
    if verified(result):
        parts += ["## Does tensor parallelism work", table(verdicts_shown(result)), listed(read_verification(result))]
    if concurrency_rows(result, "closed"):
        parts += ["## Many clients", _pictures(drawn, ["concurrency", "batch"])]
        parts += [table(concurrency_shown(result)), listed(read_concurrency(result))]
    if mixes(result):
        parts += ["## Mixed load", _pictures(drawn, ["mixed-load"])]
        parts += [table(fairness_shown(result)), listed(read_fairness(result))]
    for title, frame in sections(result):
        parts += [f"## {title}", table(frame)]
    return joined(parts)


def _pictures(drawn: list[str], names: list[str]) -> str:
    return pictures(name for name in names if name in drawn)
