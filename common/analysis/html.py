"""A notebook and a result as one HTML file that loads nothing from outside, with the figures beside it."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from common.analysis.frames import CHOSEN, RESULTS
from common.analysis.scaling.figures import save_figures
from common.analysis.scaling.reading import about
from common.store.archive import load_result

NOTEBOOK = RESULTS.parent / "notebooks" / "01_scaling.ipynb"
EXECUTION_LIMIT_S = 300

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


def make_report(result_path: Path, folder: Path, notebook: Path = NOTEBOOK) -> list[Path]:
    """Execute the notebook on a result and write `<run id>.html` and the figures; their paths, the page first.

    Raises:
        StoreError: the result cannot be read.
        CellExecutionError: a cell of the notebook failed.
    """
    result = load_result(result_path)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{result.run_id}.html"
    title = html.escape(f"{result.experiment}: {about(result)}")
    page.write_text(PAGE.format(title=title, body=_body(execute(notebook, result_path))), encoding="utf-8")
    return [page, *save_figures(result, folder)]


def execute(notebook: Path, result_path: Path) -> Any:  # noqa: ANN401  # nbformat is untyped
    """The notebook with its outputs, read from this result.

    Raises:
        CellExecutionError: a cell failed.
    """
    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        content,
        timeout=EXECUTION_LIMIT_S,
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--log-level=ERROR"],  # else the kernel warns of talking to itself over TCP
    )
    return client.execute(env={**os.environ, CHOSEN: str(result_path.absolute())})


def _body(executed: Any) -> str:  # noqa: ANN401  # nbformat is untyped
    """Text, figures and printed lines; the code stays in the notebook."""
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True, embed_images=True)
    body: str = exporter.from_notebook_node(executed)[0]
    return body
