"""A result as one HTML file that loads nothing from outside, with the figures beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.analysis.frames import CHOSEN, RESULTS
from common.analysis.page import body_of, page_of
from common.analysis.report import markdown
from common.analysis.views import Account, save_drawings
from common.analysis.wording import about
from common.store.archive import load_result
from common.store.schema import Result

NOTEBOOK_FOLDER = RESULTS.parent / "notebooks"
NOTEBOOKS = {
    "benchmark_scaling": "01_scaling.ipynb",
    "simulate_concurrent_requests": "02_concurrency_and_latency.ipynb",
    "test_mixed_workload": "03_mixed_load_and_fairness.ipynb",
    "compare_parallel_plans": "04_plans_and_predictions.ipynb",
}
EXECUTION_LIMIT_S = 300


def make_report(
    result_path: Path, folder: Path, accounted: Callable[[Result], Account | None] = lambda _: None
) -> list[Path]:
    """Write `<run id>.html` and the figures; their paths, the page first.

    The page is the experiment's notebook, executed on the result; of an experiment without one, its tables and figures,
    and what `accounted` has to tell of it.

    Raises:
        StoreError: the result cannot be read.
        CellExecutionError: a cell of the notebook failed.
    """
    result = load_result(result_path)
    account = accounted(result)
    figures = save_drawings(result, folder, account)
    if (name := NOTEBOOKS.get(result.experiment)) is not None:
        body = _body(execute(NOTEBOOK_FOLDER / name, result_path))
    else:
        pictures = {path.stem.removeprefix(f"{result.run_id}-"): path for path in figures}
        body = body_of(markdown(result, {name: path.name for name, path in pictures.items()}, account), folder)
    page = folder / f"{result.run_id}.html"
    page.write_text(page_of(body, f"{result.experiment}: {about(result)}"), encoding="utf-8")
    return [page, *figures]


def execute(notebook: Path, result_path: Path) -> Any:  # noqa: ANN401  # nbformat is untyped
    """The notebook with its outputs, read from this result.

    Raises:
        CellExecutionError: a cell failed.
    """
    import nbformat  # two seconds, most of them for a grammar of addresses that no notebook here needs
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        content,
        timeout=EXECUTION_LIMIT_S,
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--log-level=ERROR"],  # else the kernel warns of talking to itself over TCP
    )
    here = os.pathsep.join(filter(None, [str(RESULTS.parent), os.environ.get("PYTHONPATH")]))  # not another checkout's
    return client.execute(env={**os.environ, CHOSEN: str(result_path.absolute()), "PYTHONPATH": here})


def _body(executed: Any) -> str:  # noqa: ANN401  # nbformat is untyped
    """Text, figures and printed lines; the code stays in the notebook."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True, embed_images=True)
    body: str = exporter.from_notebook_node(executed)[0]
    return body
