"""The scaling benchmark's figures: 16:9, readable on a slide, no meaning by colour alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.analysis.scaling import findings
from common.analysis.scaling.load_curves import LoadCurve, load_curves
from common.analysis.scaling.rows import OVER, ScalingRow, communication_share, group, sampling_unit, scaling_cases
from common.analysis.wording import about, streams
from common.store.schema import Result

SIZE_INCHES = (12.8, 7.2)
DPI = 150  # 1920 x 1080 pixels
TITLE_WIDTH = 74  # characters
# Okabe and Ito's colours, told apart with any colour vision; each comes with a marker of its own
LOOKS = (
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D")),
    *(("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"), ("#7F7F7F", "h")),
)
INK, FAINT = "#222222", "#8A8A8A"
ALL_REDUCE, REST = "#D55E00", "#A9CDE4"  # the first also hatched
STYLE: dict[Any, Any] = {
    "font.size": 15,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 1.5,
}


@matplotlib.rc_context(STYLE)
def speedup(result: Result) -> Figure:
    """Speed-up of every plan on every curve, against the ideal and against the machine's own ceilings."""
    rows = findings.gained_rows(result)
    note = f"{_interval_note(result)}; hollow: not resolved from no gain; grey line: no device wasted"
    figure, axes = empty_figure(findings.speedup_finding(result), about(result), note)
    if not rows:
        return without_data(figure, axes)
    looks = _looks(result)
    _scale_gains(axes, rows)
    axes.axhline(1, color=INK, linewidth=1.5, zorder=1)
    groups = list(dict.fromkeys(_group_label(row) for row in rows))
    for place, label in enumerate(groups):
        _draw_group(axes, place, [row for row in rows if _group_label(row) == label], looks)
    if _draw_ceilings(axes, len(groups), result):
        groups.append("the machine:\nall devices\nagainst one")
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("speed-up against the base")
    axes.text(1.005, 1, "base", va="center", fontsize=12, transform=axes.get_yaxis_transform())
    return figure


@matplotlib.rc_context(STYLE)
def saturation(result: Result) -> Figure:
    """Throughput over concurrency of every plan, and where more load stops paying."""
    curves = load_curves(result)
    note = f"ring: the load that the plan's saturated case ran at; {_interval_note(result)}; none: tried once"
    figure, axes = empty_figure(findings.saturation_finding(result), about(result), note)
    if not curves:
        return without_data(figure, axes)
    looks = _looks(result)
    every = sorted({load.streams for curve in curves for load in curve.loads})
    rates = [load.throughput for curve in curves for load in curve.loads]
    highest = max(rate.value for rate in rates)
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(count) for count in every])
    axes.minorticks_off()
    axes.set_xlim(every[0] / 1.2, every[-1] * (every[-1] / every[0]) ** 0.3 * 1.2)  # room for the plans' names
    axes.set_ylim(0, min(max(rate.high or rate.value for rate in rates) * 1.1, 1.4 * highest))
    axes.set_xlabel("streams (requests in flight; logarithmic scale)")
    axes.set_ylabel("output tokens per second")
    for curve in curves:
        _draw_load_curve(axes, curve, looks[str(curve.plan)])
    _name_load_curves(axes, curves, looks)
    return figure


@matplotlib.rc_context(STYLE)
def decoding_step(result: Result) -> Figure:
    """What a decoding step costs under every plan at the same load, and at least how much of it is all-reduce."""
    rows = findings.step_rows(result)
    note = "median TPOT; all-reduces timed alone with all ranks arriving together: inside the model they cost more"
    figure, axes = empty_figure(findings.step_finding(result), about(result), note)
    if not rows:
        return without_data(figure, axes)
    figure.subplots_adjust(left=0.17)
    longest = max(row.tpot_ms or 0 for row in rows)
    loads = list(dict.fromkeys(row.load for row in rows))
    places = [index + 0.6 * loads.index(row.load) for index, row in enumerate(rows)]
    for place, row in zip(places, rows, strict=True):
        _draw_step(axes, place, row, communication_share(row.case, result), crowded=len(rows) > 8)
    axes.set_yticks(places, [f"{row.case.plan}, {streams(row.load)}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.45)
    axes.set_xlabel("milliseconds per output token of one stream")
    axes.grid(visible=False)
    parts = [Patch(facecolor=ALL_REDUCE, edgecolor="white", hatch="//"), Patch(facecolor=REST)]
    names = ["all-reduces, at least", "everything else: weights, KV, arithmetic, waiting, server"]
    axes.legend(parts, names, fontsize=13, loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=2, frameon=False)
    return figure


FIGURES = {"speedup": speedup, "saturation": saturation, "decoding-step": decoding_step}


def empty_figure(title: str, source: str, note: str) -> tuple[Figure, Axes]:
    """An empty figure with its finding above and where it comes from below."""
    figure, axes = plt.subplots(figsize=SIZE_INCHES)
    plt.close(figure)  # a notebook shows what a cell returns; without this it would show it twice
    figure.subplots_adjust(left=0.09, right=0.95, top=0.83, bottom=0.24)
    heading = textwrap.fill(title, TITLE_WIDTH, break_on_hyphens=False)
    figure.text(0.03, 0.965, heading, fontsize=20, weight="bold", va="top")
    figure.text(0.03, 0.03, f"{source}\n{note}", fontsize=12, color="#555555", va="bottom", linespacing=1.4)
    axes.grid(axis="y", color="#DDDDDD", linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def without_data(figure: Figure, axes: Axes) -> Figure:
    """The figure with a sentence in place of what the result does not hold."""
    axes.axis("off")
    axes.text(0.5, 0.5, "this result has no data for this figure", ha="center", transform=axes.transAxes)
    return figure


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, raised as little as needed so that labels do not cover each other."""
    placed: dict[int, float] = {}
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        placed[index] = max([heights[index], *(height + gap for height in placed.values())])
    return [placed[index] for index in range(len(heights))]


def _interval_note(result: Result) -> str:
    over = OVER[sampling_unit(scaling_cases(result))]
    return f"bars: 95 % interval over {over}"


def _looks(result: Result) -> dict[str, tuple[str, str]]:
    """A colour and a marker for every plan, the same in all figures of a result."""
    names = [str(plan) for plan in sorted({case.plan for case in result.cases if case.repeats})]
    return {name: LOOKS[index % len(LOOKS)] for index, name in enumerate(names)}


def _group_label(row: ScalingRow) -> str:
    if row.curve == "pinned":
        return "pinned to\nthe base's\nKV cache"
    if row.curve == "saturated":
        return "saturated,\neach plan\nat its best"
    if row.curve == "weak":
        return f"weak,\n{streams(group(row.case))}\nper device"
    if row.curve == "replay":
        return f"replay,\ntimes ×{row.load:g}\n(latency)"
    return f"fixed,\n{streams(row.load)}"


def _scale_gains(axes: Axes, rows: Sequence[ScalingRow]) -> None:
    """From 0 up to two devices, logarithmic beyond; an interval that says nothing may run out of sight."""
    ideal = max(row.ideal or 1 for row in rows)
    values = [row.speedup.value for row in rows if row.speedup]
    highs = [row.speedup.high or row.speedup.value for row in rows if row.speedup]
    top = max(ideal, *values, min(max(highs), 1.4 * ideal)) * 1.15
    if ideal <= 2:
        axes.set_ylim(0, top)
        return
    axes.set_yscale("log", base=2)
    axes.set_ylim(min(0.5, *values) / 1.1, top)
    ticks = [2.0**power for power in range(-1, math.ceil(math.log2(top)))]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _draw_group(axes: Axes, place: int, rows: Sequence[ScalingRow], looks: dict[str, tuple[str, str]]) -> None:
    width = 0.9 / len(rows)
    size = {1: 14, 2: 14, 3: 12}.get(len(rows), 9)
    labelled: float | None = None
    for index, row in enumerate(rows):
        x = place + (index - (len(rows) - 1) / 2) * width
        _draw_gain(axes, x, row, looks[str(row.case.plan)], size)
        if row.ideal is None:
            continue
        axes.plot([x - width / 2, x + width / 2], [row.ideal] * 2, color=FAINT, linewidth=3, zorder=1)
        if row.ideal != labelled:
            axes.annotate(f"ideal {row.ideal:g}×", (x - width / 2, row.ideal), (0, 4), textcoords="offset points",
                          fontsize=min(size, 12), color="#555555")  # fmt: skip
        labelled = row.ideal


def _draw_gain(axes: Axes, x: float, row: ScalingRow, look: tuple[str, str], size: int) -> None:
    gained = row.speedup
    assert gained is not None
    color, marker = look
    low, high = gained.low or gained.value, gained.high or gained.value
    axes.plot([x, x], [low, high], color=color, linewidth=3)
    fill = "white" if row.unresolved else color
    axes.plot(x, gained.value, marker, markersize=13, markerfacecolor=fill, markeredgecolor=color, markeredgewidth=2.5)
    low_down = axes.transAxes.inverted().transform(axes.transData.transform((x, low)))[1] < 0.25  # no room below
    axes.annotate(f"{row.case.plan}\n{gained.value:.2f}×", (x, high if low_down else low), (0, 13 if low_down else -13),
                  textcoords="offset points", ha="center", va="bottom" if low_down else "top", fontsize=size,
                  weight="bold", color=color, zorder=1.5,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _draw_load_curve(axes: Axes, curve: LoadCurve, look: tuple[str, str]) -> None:
    color, marker = look
    rates = [load.throughput for load in curve.loads]
    axes.plot([load.streams for load in curve.loads], [rate.value for rate in rates], color=color, marker=marker,
              markersize=9, linewidth=2.5)  # fmt: skip
    for load, rate in zip(curve.loads, rates, strict=True):
        if rate.low is not None and rate.high is not None:
            axes.plot([load.streams] * 2, [rate.low, rate.high], color=color, linewidth=2)
    if curve.saturated:
        at = (curve.saturated.streams, curve.saturated.throughput.value)
        axes.plot(*at, "o", markersize=22, markerfacecolor="none", markeredgecolor=color, markeredgewidth=2)


def _name_load_curves(axes: Axes, curves: Sequence[LoadCurve], looks: dict[str, tuple[str, str]]) -> None:
    """Names at the right where curves reach it, above their last point where they do not."""
    last = max(curve.loads[-1].streams for curve in curves)
    ends = [curve for curve in curves if curve.loads[-1].streams == last]
    heights = apart([curve.loads[-1].throughput.value for curve in ends], gap=axes.get_ylim()[1] / 8)
    for curve, height in zip(ends, heights, strict=True):
        text = str(curve.plan)
        if curve.saturated:
            text += f": {curve.saturated.throughput.value:.0f} tok/s\nat {streams(curve.saturated.streams)}"
        axes.annotate(text, (last, height), (22, 0), textcoords="offset points", va="center", weight="bold",
                      color=looks[str(curve.plan)][0])  # fmt: skip
    for curve in curves:
        if curve not in ends:
            at = (curve.loads[-1].streams, curve.loads[-1].throughput.value)
            axes.annotate(str(curve.plan), at, (0, 16), textcoords="offset points", ha="center", weight="bold",
                          color=looks[str(curve.plan)][0])  # fmt: skip


def _draw_ceilings(axes: Axes, place: int, result: Result) -> bool:
    """The machine's own scaling as one more group, each with the range of its rounds; False where not measured."""
    ceilings = result.environment.get("ceilings") or {}
    measured = {name: ceilings.get(f"{name}_scaling") for name in ("memory", "matrix")}
    for x, (name, value) in zip((place - 0.22, place + 0.22), measured.items(), strict=True):
        if value is None:
            continue
        low, high = ceilings.get(f"{name}_scaling_range") or (value, value)
        axes.plot([x, x], [low, high], color=INK, linewidth=2, linestyle=":")
        axes.plot(x, value, "*", markersize=17, color=INK)
        label = {"memory": "memory\nbandwidth", "matrix": "matrix\nrate"}[name]
        axes.annotate(f"{label}\n{value:.2f}×", (x, low), (0, -13), textcoords="offset points", ha="center", va="top",
                      fontsize=12, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    return any(measured.values())


def _draw_step(axes: Axes, place: float, row: ScalingRow, share: float | None, crowded: bool) -> None:
    assert row.tpot_ms is not None
    all_reduce_ms = row.tpot_ms * min(share or 0.0, 1.0)
    axes.barh(place, all_reduce_ms, height=0.8, color=ALL_REDUCE, edgecolor="white", hatch="//")
    axes.barh(place, row.tpot_ms - all_reduce_ms, left=all_reduce_ms, height=0.8, color=REST)
    weights = max(row.case.engine.get("weight_bytes_per_rank") or [], default=None)
    text = f"{row.tpot_ms:.3g} ms" + ("" if share is None else f", all-reduce ≥ {all_reduce_ms:.2g} ms ({share:.1%})")
    separator = "; " if crowded else "\n"
    text += "" if weights is None else f"{separator}{weights / 1e6:.3g} MB of weights per device"
    axes.annotate(
        text, (row.tpot_ms, place), (8, 0), textcoords="offset points", va="center", fontsize=11 if crowded else 13
    )
