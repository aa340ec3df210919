"""The notebook of plans runs on a planted result and, where one is committed, on the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.analysis import html
from common.analysis.frames import RESULTS, latest_reference, results_under
from common.store.files import load, save
from common.store.schema import Result
from tests.analysis.planted import ENVIRONMENT, SHAPE, TP1, TP2, X2, case, result

pytestmark = pytest.mark.slow

NOTEBOOK = html.NOTEBOOK_FOLDER / "04_plans_and_predictions.ipynb"
REFERENCES = [path for path in results_under(RESULTS / "reference") if path.parent.name == "compare_parallel_plans"]
CEILINGS = {"matrix_flops_one": 1e11, "memory_bytes_per_s_one": 2e10, "memory_bytes_per_s_all": 2.8e10}
FIGURES = 6  # front, diagrams, errors, losses, two traps


def planted() -> Result:
    """Three plans at two loads, on a machine that says its ceilings."""
    rates = {TP1: (30.0, 100.0), TP2: (45.0, 156.0), X2: (30.0, 170.0)}
    cases = [
        case(plan, "fixed", streams, [0.99 * rate, rate, 1.01 * rate])
        for plan, pair in rates.items()
        for streams, rate in zip((1, 16), pair, strict=True)
    ]
    for made in cases:
        for repeat in made.repeats:
            repeat["median_e2el_ms"] = 37 * repeat["median_tpot_ms"]
    devices = [device | {"memory_bytes": 8e9} for device in ENVIRONMENT["devices"]]
    environment = ENVIRONMENT | {"devices": devices, "ceilings": ENVIRONMENT["ceilings"] | CEILINGS}
    config = {"model": "qwen2-9m", "model_shape": SHAPE}
    return result(cases, experiment="compare_parallel_plans", environment=environment, config=config)


def printed(place: Path) -> tuple[str, int]:
    """What the executed notebook shows: its text, and how many figures."""
    outputs = [output for cell in html.execute(NOTEBOOK, place).cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    return "\n".join(texts), sum("image/png" in output.get("data", {}) for output in outputs)


def test_every_part_is_shown_of_a_planted_result(tmp_path: Path) -> None:
    made = planted()
    save(made, tmp_path / f"{made.run_id}.json")
    page, *figures = html.make_report(tmp_path / f"{made.run_id}.json", tmp_path / "out")
    text = page.read_text()
    assert text.count('src="data:image/png') == FIGURES
    assert {"pareto", "anatomy"} <= {path.stem.removeprefix(f"{made.run_id}-") for path in figures}
    for part in ("SYNTHETIC", "throughput: tp1x2: 170 tok/s", "2 cases predicted from tp1, tp2", "NVLink, 128 tokens"):
        assert part in text
    assert "Traceback" not in text


@pytest.mark.skipif(not REFERENCES, reason="no comparison of plans is committed yet")
def test_it_runs_on_the_committed_result() -> None:
    place = latest_reference("compare_parallel_plans")
    text, pictures = printed(place)
    assert place.name in text and pictures == FIGURES
    assert "cases predicted from tp1, tp2" in text
    plans = {str(one.plan) for one in load(place).cases if one.repeats and one.model is None}
    assert {"tp1", "tp2", "pp2"} <= plans and all(f"{plan}/" in text for plan in plans)


@pytest.mark.parametrize("word", ["Question", "Prediction", "Reading"])
def test_it_asks_before_it_shows(word: str) -> None:
    assert f"**{word}.**" in NOTEBOOK.read_text()
