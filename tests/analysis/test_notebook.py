"""Notebooks keep their shape and run on any result; every result becomes a page that loads nothing from outside."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.analysis import html
from common.analysis.fairness import figures as fairness_figures
from common.analysis.fairness import reading as fairness
from common.analysis.frames import latest_reference
from common.store.files import load, save
from common.store.schema import Guess
from tests.analysis import planted_concurrency
from tests.analysis.planted import full

MOST_CELLS, MOST_LINES = 12, 12
ALLOWED_IMPORT = re.compile(r"from common\.(analysis|predict)(\.\w+)* import [\w, ]+")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = full()
    save(result, folder / f"{result.run_id}.json")
    first, *figures = html.make_report(folder / f"{result.run_id}.json", folder / "out")
    assert len(figures) == 3 and all(path.exists() for path in figures)
    return first


NOTEBOOKS = sorted(html.NOTEBOOK_FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def written(path: Path) -> dict[str, Any]:
    """The file as it lies there."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@each_notebook
def test_cells_are_few_short_and_hold_no_plumbing(path: Path) -> None:
    cells = ["".join(cell["source"]) for cell in written(path)["cells"] if cell["cell_type"] == "code"]
    assert 0 < len(cells) <= MOST_CELLS
    for source in cells:
        assert len(source.splitlines()) <= MOST_LINES
        assert not re.search(r"^\s*(def|class|import|%|!)", source, re.MULTILINE)
        imports = [line for line in source.splitlines() if line.startswith("from ")]
        assert all(ALLOWED_IMPORT.fullmatch(line) for line in imports)
    assert sum("RESULTS =" in source for source in cells) == 1


@each_notebook
def test_committed_without_outputs_and_metadata(path: Path) -> None:
    notebook = written(path)
    assert set(notebook["metadata"]) == {"kernelspec"}
    for cell in notebook["cells"]:
        assert not cell["metadata"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


class _Links(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def check_that_it_loads_nothing(text: str) -> None:
    links = _Links()
    links.feed(text)
    assert all(link.startswith(("data:", "#")) for link in links.fetched)
    assert "script" not in links.tags and "link" not in links.tags


@pytest.mark.slow
def test_the_page_loads_nothing_from_outside(page: Path) -> None:
    text = page.read_text()
    check_that_it_loads_nothing(text)
    assert "@import" not in text and not re.search(r"url\(\s*['\"]?(?!data:)", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "pictures", "parts"),
    [
        (
            "simulate_concurrent_requests",
            2,
            ["How many clients are too many?", "tp2: the knee is", "16 prompts gives"],
        ),
        ("test_tensor_parallel", 0, ["Does tensor parallelism work", "<table", "PASS", "528.6"]),
    ],
)
def test_every_experiments_result_becomes_a_page(
    experiment: str, pictures: int, parts: list[str], tmp_path: Path
) -> None:
    page, *figures = html.make_report(latest_reference(experiment), tmp_path)
    text = page.read_text()
    assert len(figures) == pictures and text.count("data:image/png;base64,") >= pictures
    check_that_it_loads_nothing(text)
    assert all(part in text for part in parts) and "Traceback" not in text and experiment in text


@pytest.mark.slow
def test_the_evenings_page_holds_every_part_its_guess_and_its_figures(tmp_path: Path) -> None:
    everything = full()
    everything.experiment = "run_distributed_benchmark"
    everything.cases += planted_concurrency.full().cases
    everything.guess = Guess("How many times?", "x", "tp2/saturated/c64", 1.9)
    save(everything, tmp_path / f"{everything.run_id}.json")
    page, *figures = html.make_report(tmp_path / f"{everything.run_id}.json", tmp_path / "out")
    text = page.read_text()
    assert text.count('src="data:image/png') == len(figures) == 5
    for part in ("Scaling", "Memory", "Many clients", "The plans side by side", "Often believed", "you guessed  1.9x"):
        assert part in text


@pytest.mark.slow
def test_the_page_shows_figures_tables_and_numbers(page: Path) -> None:
    text = page.read_text()
    assert text.count('src="data:image/png') == 3
    assert text.count("<table") == 2
    for part in ("SYNTHETIC", "1.67 [1.60, 1.74]", "all-reduces explain at least 1.0%", "What this does not show"):
        assert part in text
    assert "Traceback" not in text
    assert "chosen_result()" not in text  # the code stays in the notebook
    assert "never yours" not in text, "it is of the reader's own run"


@pytest.mark.slow
def test_mixed_load_is_shown_from_the_committed_result(tmp_path: Path) -> None:
    """Both figures have data, and every number in the text is the result's own."""
    place = latest_reference("test_mixed_workload")
    page, *figures = html.make_report(place, tmp_path)
    text = unescape(page.read_text())
    check_that_it_loads_nothing(text)
    assert len(figures) == 1 and text.count('src="data:image/png') == 2
    assert "Do short requests wait for long ones?" in text and "Traceback" not in text
    result = load(place)
    assert place.name in text
    for sentence in (*fairness.losses(result), *fairness.verdicts(result)):
        assert sentence in text
    assert fairness_figures.first_repeat(place, result), "requests lie beside it"
