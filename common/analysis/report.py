"""A result in words: Markdown, and an HTML page with the same words and figures, of whatever it has something for."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt
from rich.console import Console

from common.analysis.concurrency.reading import read_concurrency
from common.analysis.concurrency.rows import concurrency_rows
from common.analysis.concurrency.table import shown as concurrency_shown
from common.analysis.evening.plans import recommendation, sections
from common.analysis.fairness.reading import mixes, read_fairness
from common.analysis.fairness.table import fairness_shown
from common.analysis.learning.beliefs import sentences
from common.analysis.learning.questions import guess_lines
from common.analysis.scaling import figures
from common.analysis.scaling.reading import about, read_scaling
from common.analysis.scaling.rows import scaling_rows
from common.analysis.scaling.table import memory_shown
from common.analysis.scaling.table import shown as scaling_shown
from common.analysis.verification.judgement import verified
from common.analysis.verification.table import memory_shown as weights_shown
from common.analysis.verification.table import read_verification, verdicts_shown
from common.analysis.views import drawings
from common.store.schema import Result

EVENING = "run_distributed_benchmark"

# nbconvert's own pages fetch MathJax and RequireJS from a CDN; this page needs neither
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 1.05rem/1.55 system-ui, sans-serif; color: #222 }}
h1, h2 {{ line-height: 1.2 }}
h2 {{ margin-top: 2.5rem }}
img {{ max-width: 100%; height: auto }}
pre, code {{ font: 0.92rem/1.45 ui-monospace, monospace; white-space: pre-wrap }}
.output pre {{ background: #f4f6f8; border-left: 4px solid #0072b2; padding: 0.7rem 1rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd }}
.anchor-link, .prompt {{ display: none }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


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
    paths[1].write_text(page_of(body_of(text, folder), about(result)), encoding="utf-8")
    return paths


def markdown(result: Result, pictures: Mapping[str, str]) -> str:
    """The text about everything that the result holds; `pictures` are the files of its figures, by name."""
    parts = [f"# {about(result)}"]
    if result.experiment == EVENING:
        parts += [recommendation(result)]
    if scaling_rows(result):
        parts += ["## Scaling", _pictures(pictures, [*figures.FIGURES])]
        parts += [table(scaling_shown(result)), _list(read_scaling(result)), "### Memory", table(memory_shown(result))]
    if verified(result):
        parts += ["## Does tensor parallelism work", table(verdicts_shown(result)), table(weights_shown(result))]
        parts += [_list(read_verification(result))]
    if concurrency_rows(result, "closed") or concurrency_rows(result, "open"):
        parts += ["## Many clients", _pictures(pictures, ["concurrency", "batch"])]
        parts += [table(concurrency_shown(result)), _list(read_concurrency(result))]
    if mixes(result):
        parts += ["## Mixed load", _pictures(pictures, ["mixed-load"])]
        parts += [table(fairness_shown(result)), _list(read_fairness(result))]
    for title, frame in sections(result) if result.experiment == EVENING else []:
        parts += [f"## {title}", table(frame)]
    if believed := sentences(result):
        parts += ["## Often believed", _list(believed)]
    if guessed := guess_lines(result):
        parts += ["## Your guess", _list(guessed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table; rich's markup in it is taken out."""
    if frame.empty:
        return ""
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [[_plain(str(cell)) for cell in cells] for cells in frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def body_of(text: str, folder: Path) -> str:
    """The Markdown as HTML, its pictures, which lie in the folder, inside."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inside(match: re.Match[str]) -> str:
        picture = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{picture}"'

    return re.sub(r'src="([^"/]+\.png)"', inside, body)


def page_of(body: str, title: str) -> str:
    """A whole page that loads nothing from outside."""
    return PAGE.format(title=html.escape(title), body=body)


def _pictures(pictures: Mapping[str, str], names: list[str]) -> str:
    return "\n\n".join(f"![{name}]({pictures[name]})" for name in names if name in pictures)


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _plain(text: str) -> str:
    out = Console(file=io.StringIO(), highlight=False, width=10_000, color_system=None)
    out.print(text, end="")
    written = out.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()
