"""The concurrency notebook runs on a planted result; on the committed one it runs in test_notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.analysis import html
from common.store.files import save
from tests.analysis.planted_concurrency import full

pytestmark = pytest.mark.slow

NOTEBOOK = html.NOTEBOOK_FOLDER / "02_concurrency_and_latency.ipynb"


def printed(result: Path) -> tuple[str, int]:
    """What the executed notebook shows: its text, and how many figures."""
    outputs = [output for cell in html.execute(NOTEBOOK, result).cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return "\n".join(texts), len(pictures)


def test_it_finds_what_was_planted(tmp_path: Path) -> None:
    result = full()
    path = tmp_path / f"{result.run_id}.json"
    save(result, path)
    text, pictures = printed(path)
    assert pictures == 2
    for part in ("SYNTHETIC", "tp1: the knee is at 16 streams", "tp2: one request with 16 prompts gives 1.20 ["):
        assert part in text


@pytest.mark.parametrize("word", ["Question", "Prediction", "Reading"])
def test_it_asks_before_it_shows(word: str) -> None:
    assert f"**{word}.**" in NOTEBOOK.read_text()
