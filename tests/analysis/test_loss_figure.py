from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.text import Text

from common.analysis.scaling.loss_figure import finding, loss
from common.core.loss import FourBars

TP2 = FourBars(ideal=200, memory_and_batch=-20, communication=50, other=30, unexplained=10, measured=130)
TP4 = FourBars(ideal=400, memory_and_batch=40, communication=120, other=60, unexplained=-20, measured=200)


def test_every_bar_hangs_where_the_one_before_ends() -> None:
    patches = loss([("tp2", TP2)], "a machine").axes[0].patches[:6]
    spans = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in patches]  # type: ignore[attr-defined]
    assert spans[0] == (0, 200)
    assert spans[5] == (0, 130)
    ends = [200, 220, 170, 140, 130]
    for (bottom, top), before, after in zip(spans[1:5], ends, ends[1:], strict=False):
        assert sorted((bottom, top)) == pytest.approx(sorted((before, after)))


def test_the_title_says_where_most_is_lost() -> None:
    assert finding([("tp2", TP2), ("tp4", TP4)]) == (
        "tp4 gives 50% of its devices' worth; communication takes the most, 30%"
    )
    assert "No plan" in finding([])
    titled = loss([("tp2", TP2), ("tp2 slowed", TP4)], "a machine", told=1)
    assert any("tp2 gives 65%" in text.get_text() for text in titled.findobj(Text) if isinstance(text, Text))


@pytest.mark.parametrize("plans", [[], [("tp2", TP2)], [("tp2", TP2), ("tp4", TP4)]])
def test_it_is_drawn_in_sixteen_to_nine(tmp_path: Path, plans: list[tuple[str, FourBars]]) -> None:
    figure = loss(plans, "a machine")
    figure.savefig(tmp_path / "loss.png", dpi=150)
    assert matplotlib.image.imread(tmp_path / "loss.png").shape[:2] == (1080, 1920)
