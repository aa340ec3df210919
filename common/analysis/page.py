"""Words, tables and figures as Markdown, and that as one HTML page that loads nothing from outside."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt
from rich.console import Console

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
pre code {{ display: block; font-size: 0.8rem; white-space: pre; overflow-x: auto }}
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


def as_page(text: str, folder: Path, title: str) -> str:
    """The Markdown as a page with its pictures, which lie in `folder`, inside.

    Raises:
        OSError: a picture is not there.
    """
    return page_of(body_of(text, folder), title)


def body_of(text: str, folder: Path) -> str:
    """The Markdown as HTML, its pictures, which lie in the folder, inside.

    Raises:
        OSError: a picture is not there.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inside(match: re.Match[str]) -> str:
        picture = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{picture}"'

    return re.sub(r'src="([^"/]+\.png)"', inside, body)


def page_of(body: str, title: str) -> str:
    """A whole page that loads nothing from outside."""
    return PAGE.format(title=html.escape(title), body=body)


def table(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table; rich's markup in it is taken out."""
    if frame.empty:
        return ""
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [[_plain(str(cell)) for cell in cells] for cells in frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def listed(lines: Iterable[str]) -> str:
    """Sentences as a list."""
    return "\n".join(f"- {line}" for line in lines)


def pictures(names: Iterable[str]) -> str:
    """Figures that lie beside the text."""
    return "\n\n".join(f"![{name}]({name}.png)" for name in names)


def joined(parts: Iterable[str]) -> str:
    """Paragraphs as one text; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: str) -> str:
    out = Console(file=io.StringIO(), highlight=False, width=10_000, color_system=None)
    out.print(text, end="")
    written = out.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()
