"""The loss in four bars as a figure: from n times the base down to what was measured, plan by plan."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.scaling.figures import INK, STYLE, empty_figure, without_data
from common.core.loss import BARS, FourBars

# Okabe and Ito's colours, told apart with any colour vision; each comes with a hatch of its own
LOOKS = {
    "memory_and_batch": ("#56B4E9", ""),
    "communication": ("#D55E00", "//"),
    "other": ("#E69F00", ".."),
    "unexplained": ("#BBBBBB", "xx"),
}
NAMES = {"memory_and_batch": "memory and batch", "other": "everything else on device and host"}
NOTE = "bars are taken off in this order, another would share the same loss out otherwise; up: a gain, not a loss"
WIDTH = 0.14


@matplotlib.rc_context(STYLE)
def loss(plans: Sequence[tuple[str, FourBars]], source: str, told: int | None = None) -> Figure:
    """The figure of these plans; `source` says which machine, model and load. The title tells of the first `told`.

    Each plan has six columns: n times its base, the four bars hanging where the one before ends, and what was measured.
    """
    figure, axes = empty_figure(finding(plans[:told]), source, NOTE)
    if not plans:
        return without_data(figure, axes)
    for place, (_, bars) in enumerate(plans):
        _draw(axes, place, bars)
    for bar, (colour, hatch) in LOOKS.items():
        axes.bar(0, 0, color=colour, hatch=hatch, edgecolor="white", label=NAMES.get(bar, bar))
    axes.set_xticks(range(len(plans)), [name for name, _ in plans])
    axes.set_ylabel("output tokens per second")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, fontsize=13, ncols=4)
    axes.set_ylim(0, 1.2 * max(max(bars.ideal, *map(bars.left_after, BARS)) for _, bars in plans))
    return figure


def finding(plans: Sequence[tuple[str, FourBars]]) -> str:
    """The largest plan's loss in one sentence."""
    if not plans:
        return "No plan with a base under the same load was measured"
    name, bars = plans[-1]
    worst, share = largest_bar(bars)
    return f"{name} gives {bars.measured / bars.ideal:.0%} of its devices' worth; {worst} takes the most, {share:.0%}"


def largest_bar(bars: FourBars) -> tuple[str, float]:
    """The name of the bar that takes the most, and its share of the devices' worth."""
    worst = max(BARS, key=lambda bar: float(getattr(bars, bar)))
    return NAMES.get(worst, worst), float(getattr(bars, worst)) / bars.ideal


def _draw(axes: Axes, place: int, bars: FourBars) -> None:
    left = place - 2.5 * WIDTH
    axes.bar(left, bars.ideal, WIDTH, color="white", edgecolor=INK, linewidth=1.5)
    axes.text(left, bars.ideal, "n x base", ha="center", va="bottom", fontsize=11, rotation=90)
    for number, bar in enumerate(BARS, start=1):
        colour, hatch = LOOKS[bar]
        size = float(getattr(bars, bar))
        axes.bar(left + number * WIDTH, size, WIDTH, bars.left_after(bar), color=colour, hatch=hatch, edgecolor="white")
    axes.bar(left + 5 * WIDTH, bars.measured, WIDTH, color=INK)
    axes.text(left + 5 * WIDTH, bars.measured, "measured", ha="center", va="bottom", fontsize=11, rotation=90)
