"""Figures of what was predicted beside what was measured: every case's error, and each plan's loss in four bars."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import matplotlib
from matplotlib.figure import Figure

from common.analysis.plans.points import size
from common.analysis.scaling.figures import FAINT, INK, LOOKS, STYLE, empty_figure, without_data
from common.analysis.scaling.loss_figure import loss
from common.analysis.wording import about, streams
from common.core.beside import Beside
from common.store.schema import Result

MOST_ROWS = 14
INSIDE, OUTSIDE = LOOKS[0], LOOKS[1]  # each a colour and a marker
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)


@matplotlib.rc_context(STYLE)
def errors(result: Result, found: Sequence[Beside]) -> Figure:
    """Predicted over measured, a line per case that did not calibrate, with its interval; 1 is what was measured."""
    held = [one for one in found if not one.calibrates]
    shown = sorted(held, key=lambda one: (*size(one.plan), one.concurrency))[:MOST_ROWS]
    note = "bars: predicted interval; filled: it holds what was measured, hollow: it does not"
    note += f"; the first {MOST_ROWS} of {len(held)} cases" if len(held) > MOST_ROWS else ""
    figure, axes = empty_figure(errors_finding(found), about(result), note)
    if not shown:
        return without_data(figure, axes)
    figure.subplots_adjust(left=0.19, right=0.66)
    for place, one in enumerate(shown):
        colour, marker = INSIDE if one.inside else OUTSIDE
        ends = [one.low / one.measured, one.high / one.measured]
        axes.plot(ends, [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        fill = colour if one.inside else "white"
        axes.plot(1 + one.error, place, marker, markersize=12, color=colour, markerfacecolor=fill, markeredgewidth=2.5)
        text = f"predicted {one.predicted:.3g} tok/s, measured {one.measured:.3g}: {one.error:+.0%}"
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=12)
    axes.axvline(1, color=INK, linewidth=1.5, zorder=1)
    least = min(min(one.low, one.predicted) / one.measured for one in shown)
    most = max(max(one.high, one.predicted) / one.measured for one in shown)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}×" for tick in TICKS])
    axes.set_xlim(0.9 * max(min(least, 0.5), TICKS[0]), 1.1 * min(max(most, 2), TICKS[-1]))
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), [f"{one.plan}, {streams(one.concurrency)}" for one in shown], fontsize=13)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", color="#DDDDDD", linewidth=1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("predicted over measured (logarithmic)")
    axes.spines["left"].set_color(FAINT)
    return figure


def losses(result: Result, found: Sequence[Beside]) -> Figure:
    """The loss of every plan in four bars, at the load that most of them were measured under."""
    with_bars = [one for one in found if one.bars is not None]
    loads = [one.concurrency for one in with_bars]
    load = max(loads, key=lambda level: (loads.count(level), level), default=0)
    of_load = {str(one.plan): one for one in reversed(with_bars) if one.concurrency == load}
    ordered = sorted(of_load.values(), key=lambda one: size(one.plan))
    return loss(
        [(str(one.plan), one.bars) for one in ordered if one.bars is not None],
        f"{about(result)} | {streams(load)}" if ordered else about(result),
    )


def errors_finding(found: Sequence[Beside]) -> str:
    """What calibrated, how far the others are off, how many lie inside."""
    held = [one for one in found if not one.calibrates]
    known = list(dict.fromkeys(str(one.plan) for one in found if one.calibrates))
    if not held:
        return "No plan was predicted from smaller ones"
    middle = median(abs(one.error) for one in held)
    inside = sum(one.inside for one in held)
    return (
        f"Predicted from {' and '.join(known)}: the median error is {middle:.0%},"
        f" and {inside} of {len(held)} intervals hold what was measured"
    )
