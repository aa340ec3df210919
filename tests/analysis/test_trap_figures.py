"""The figures of the traps and of predictions beside measurements, on values whose truth is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from common.analysis.plans import beside_figures, trap_figures
from common.core.beside import Beside
from common.core.loss import FourBars, TokenTime
from common.core.plan import ParallelPlan
from common.core.published import Published
from tests.analysis.planted import TP1, TP2, X2, result

SHORT = Published(
    machine="A1, FastLink",
    model="a model",
    engine="an engine",
    workload="short",
    source="https://example.org/table",
    rates={1: 100.0, 2: 190.0, 4: 360.0},
    held={1: 160.0, 2: 900.0, 4: 2000.0},
    pinned={1: 1.0, 2: 1.9, 4: 3.5},
)
LONG = replace(
    SHORT, workload="long", rates={1: 10.0, 2: 120.0, 4: 240.0}, held={1: 3.9, 2: 80.0, 4: 300.0},
    pinned={1: 1.0, 2: 1.6, 4: 2.5},
)  # fmt: skip
SLOW = replace(SHORT, machine="A1, Bus gen4", rates={1: 80.0, 2: 100.0, 4: 96.0})
TIME = TokenTime(0.005, 0.001, 0.001)
BARS = FourBars(ideal=200, memory_and_batch=20, communication=40, other=10, unexplained=-10, measured=140)


def texts(figure: Figure) -> str:
    return "\n".join(found.get_text() for found in figure.findobj(Text) if isinstance(found, Text))


def beside(plan: ParallelPlan, streams: int, predicted: float, bars: FourBars | None = BARS) -> Beside:
    low, high = 0.8 * predicted, 1.25 * predicted
    told = (f"{plan}/c{streams}", plan, streams, 100.0, plan in (TP1, TP2), predicted, low, high, bars, TIME)
    return Beside(*told, slowed=False, before=None)


FOUND = [beside(TP1, 16, 100, None), beside(TP2, 16, 100), beside(X2, 16, 110), beside(X2, 1, 200, None)]


def test_what_is_measured_and_what_is_predicted_are_told_apart() -> None:
    figure = trap_figures.superlinear([SHORT, LONG])
    shown = texts(figure)
    title = "2 GPUs give 12.0 times one GPU; with the KV cache of one GPU, 1.6 times are predicted"
    assert title in shown.replace("\n", " ")
    assert "long, predicted with\nthe KV cache of one GPU: 2.5×" in shown
    assert "https://example.org/table" in shown
    styles = {line.get_linestyle() for line in figure.axes[0].lines}
    assert {"-", "--"} <= styles


def test_a_starved_base_is_left_for_one_that_holds_sixteen() -> None:
    short, long = trap_figures.superlinear_said([SHORT, LONG])
    assert short.startswith("short: 4 GPUs give 3.6 times one GPU") and short.endswith("a fair base.")
    assert "3 requests on 1, 300 on 4" in long
    assert long.endswith("Against 2 GPUs, the fewest that hold 16: 2.0 times.")
    (unknown,) = trap_figures.superlinear_said([replace(LONG, held={}, pinned={})])
    assert unknown == "long: 4 GPUs give 24.0 times one GPU."


def test_links_are_named_with_what_they_gain() -> None:
    shown = texts(trap_figures.links([SHORT, SLOW]))
    for part in ("FastLink:\n3.6×", "Bus:\n1.2×", "https://example.org/table", "output tokens per second"):
        assert part in shown
    assert trap_figures.links_said([SLOW]) == ["A1, Bus gen4, short: 2 give 1.25 times 1, 4 give 0.96 times 2."]


def test_errors_are_of_the_plans_that_did_not_calibrate() -> None:
    title = beside_figures.errors_finding(FOUND)
    assert title == "Predicted from tp1 and tp2: the median error is 55%, and 1 of 2 intervals hold what was measured"
    figure = beside_figures.errors(result([]), FOUND)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["tp1x2, 1 stream", "tp1x2, 16 streams"]
    assert "predicted 200 tok/s, measured 100: +100%" in texts(figure)
    assert "No plan was predicted" in beside_figures.errors_finding(FOUND[:2])


def test_losses_are_drawn_at_the_load_of_most_plans() -> None:
    figure = beside_figures.losses(result([]), [*FOUND, beside(X2, 64, 100)])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["tp2", "tp1x2"]
    assert "16 streams" in texts(figure)


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: trap_figures.superlinear([SHORT, LONG]),
        lambda: trap_figures.links([SHORT, SLOW]),
        lambda: beside_figures.errors(result([]), FOUND),
        lambda: beside_figures.losses(result([]), FOUND),
        lambda: trap_figures.superlinear([]),
        lambda: trap_figures.links([]),
        lambda: beside_figures.errors(result([]), []),
        lambda: beside_figures.losses(result([]), []),
    ],
)
def test_all_are_drawn_in_sixteen_to_nine(tmp_path: Path, draw: Callable[[], Figure]) -> None:
    draw().savefig(tmp_path / "figure.png", dpi=150)
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[:2] == (1080, 1920)
