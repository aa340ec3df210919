"""Figures: their findings, their shape, and that something is on them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from common.analysis.scaling import figures
from common.analysis.scaling.findings import saturation_finding, speedup_finding, step_finding
from common.analysis.scaling.load_curves import load_curves
from common.analysis.views import save_drawings
from common.store.schema import Case
from tests.analysis.planted import TP1, TP2, TP4, X2, case, full, result


@pytest.mark.slow
def test_figures_are_written_in_sixteen_to_nine_with_something_on_them(tmp_path: Path) -> None:
    paths = save_drawings(full(), tmp_path / "new")
    names = [path.name.removeprefix(f"{full().run_id}-") for path in paths]
    assert names == ["speedup.png", "saturation.png", "decoding-step.png"]
    for path in paths:
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[:2] == (1080, 1920)
        ink = (pixels[..., :3].mean(axis=2) < 0.9).astype(float)
        assert 0.01 < ink.mean() < 0.6
        assert ink[960:].any() and ink[:150].any()  # caption and title


def test_every_figure_says_where_its_numbers_come_from() -> None:
    for draw in figures.FIGURES.values():
        texts = " ".join(text.get_text() for text in draw(full()).texts)
        for part in ("SYNTHETIC", "qwen2-9m", "vLLM 0.0.0", "2026-01-02"):
            assert part in texts
    assert "95 % interval over repeats inside one engine start" in _texts(figures.speedup(full()))


def test_plans_differ_by_marker_and_by_name() -> None:
    lines = figures.speedup(full()).axes[0].lines
    markers = {str(line.get_marker()) for line in lines} - {"None", ""}
    assert len(markers) == 3  # tp2, tp1x2, the machine
    labels = {text.get_text().split("\n")[0] for text in figures.speedup(full()).axes[0].texts}
    assert {"tp2", "tp1x2", "base", "memory", "matrix"} <= labels


def test_findings_are_computed() -> None:
    assert speedup_finding(full()) == (
        "tp2 gives 1.67× saturated, no resolved gain (1.03×) at 1 stream; tp1x2 gives 1.70× at 16 streams; ideal is 2×"
    )
    assert saturation_finding(full()) == (
        "tp1 saturates at 32 streams (120 tok/s); tp2 still gains at 64 streams, the most tried (200 tok/s)"
    )
    assert step_finding(full()) == (
        "At 16 streams a decoding step takes 160 ms with tp1, 103 ms with tp2; all-reduces explain at least 1.0% of it"
    )


def test_a_loss_is_called_a_loss() -> None:
    slower = result([case(TP1, "fixed", 4, [100.0, 101.0, 102.0]), case(TP2, "fixed", 4, [80.0, 81.0, 82.0])])
    assert speedup_finding(slower) == "tp2 gives a loss (0.80×) at 4 streams; ideal is 2×"


def test_weak_scaling_is_no_headline_beside_equal_work() -> None:
    weak = [case(TP1, "weak", 8, [80.0, 81.0]), case(TP2, "weak", 16, [160.0, 161.0])]
    fixed = [case(TP1, "fixed", 8, [80.0, 81.0]), case(TP2, "fixed", 8, [96.0, 97.0])]
    assert speedup_finding(result(weak)).startswith("tp2 gives 1.99× at 8 streams per device")
    assert speedup_finding(result([*weak, *fixed])).startswith("tp2 gives 1.20× at 8 streams;")


def test_repeated_cases_outrank_rungs() -> None:
    tp1 = load_curves(full())[0]
    assert {load.streams: round(load.throughput.value) for load in tp1.loads} == {
        1: 31,
        8: 80,
        16: 100,
        32: 120,
        64: 122,
    }
    assert tp1.saturated is not None and tp1.saturated.streams == 32 and not tp1.still_gaining


@pytest.mark.parametrize("cases", [[], [case(TP1, "fixed", 1, [10.0])]], ids=["none", "one"])
def test_results_without_comparison_still_draw(cases: list[Case]) -> None:
    for draw in figures.FIGURES.values():
        draw(result(cases)).canvas.draw()
    assert speedup_finding(result(cases)) == "No plan was compared with a smaller one"


def test_many_plans_and_no_ceilings_draw(tmp_path: Path) -> None:
    plans = ((TP1, 100.0), (TP2, 170.0), (X2, 190.0), (TP4, 290.0))
    read = result(
        [case(plan, "fixed", 16, [rate, rate + 1]) for plan, rate in plans],
        environment={"device_kind": "gpu", "devices": [], "ceilings": None},
    )
    axes = figures.speedup(read).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[1] > 4
    assert "unknown machine" in _texts(figures.speedup(read))
    assert np.isfinite(axes.get_ylim()).all()


def _texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)
