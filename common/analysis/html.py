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
from common.analysis.page import PAGE
from common.analysis.scaling.figures import save_figures
from common.analysis.scaling.reading import about
from common.store.archive import load_result

NOTEBOOK = RESULTS.parent / "notebooks" / "01_scaling.ipynb"
EXECUTION_LIMIT_S = 300


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
