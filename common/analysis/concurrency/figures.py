"""The concurrency experiment's figures: 16:9, readable on a slide, no meaning by colour alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from common.analysis.concurrency.reading import batch_finding, knee_finding
from common.analysis.concurrency.rows import (
    BatchRow,
    ConcurrencyRow,
    Found,
    batch_rows,
    concurrency_cases,
    found,
    slo_of,
)
from common.analysis.scaling.figures import FAINT, INK, LOOKS, SIZE_INCHES, STYLE, TITLE_WIDTH
from common.analysis.scaling.rows import OVER, sampling_unit
from common.analysis.wording import about
from common.store.schema import Result

NO_DATA = "this result has no data for this figure"


@matplotlib.rc_context(STYLE)
def concurrency(result: Result) -> Figure:
    """Throughput and p99 TTFT over concurrency, the knee of each plan marked."""
    plans = found(result)
    external = result.config.get("external")  # how often that was started, nobody here knows
    over = "repeats of one run" if external else OVER[sampling_unit(concurrency_cases(result))]
    note = f"bars: 95 % interval over {over}; ring: the knee, dashed where it is not resolved"
    figure, (rates, waits) = _frame(knee_finding(plans) or NO_DATA, f"{about(result)}\n{note}", panels=2)
    if not plans:
        return _without_data(figure, [rates, waits])
    for one, (color, marker) in zip(plans, LOOKS, strict=False):
        _draw_rates(rates, one, color, marker)
        _draw_waits(waits, one, color, marker)
    loads = sorted({row.load for one in plans for row in one.rows})
    for axes in (rates, waits):
        axes.set_xscale("log", base=2)
        axes.set_xticks(loads, [f"{load:g}" for load in loads])
        axes.minorticks_off()
        axes.set_xlim(loads[0] / 1.3, loads[-1] * 1.3)
        axes.set_xlabel("clients (logarithmic scale)")
    rates.set_ylim(0, 1.25 * max(row.throughput.value for one in plans for row in one.rows))
    rates.set_ylabel("output tokens per second")
    waits.set_yscale("log")
    waits.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    waits.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    waits.yaxis.set_minor_formatter(NullFormatter())
    waits.set_ylabel("p99 time to first token, ms (logarithmic scale)", fontsize=13)
    if limit := slo_of(result).get("ttft"):
        waits.axhline(limit, color=INK, linewidth=1.5, linestyle=":")
        waits.annotate(f"limit {limit:g} ms", (loads[0], limit), (0, 5), textcoords="offset points", fontsize=12)
    rates.legend(loc="upper left", frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def batch(result: Result) -> Figure:
    """What one request with many prompts, and one offline batch, gain over as many singles at once, for every plan."""
    rows = batch_rows(result)
    note = "dot: ratio of geometric means; bar: its 95 % interval; hollow: not resolved from none"
    figure, (axes,) = _frame(batch_finding(rows) or NO_DATA, f"{about(result)}\n{note}", panels=1)
    if not rows:
        return _without_data(figure, [axes])
    for place, (row, (color, marker)) in enumerate(zip(rows, LOOKS, strict=False)):
        _draw_gain(axes, place, row, color, marker)
    axes.axvline(1, color=INK, linewidth=1.5, zorder=1)
    axes.set_yticks(range(len(rows)), [f"{row.who}\n{row.way}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    ends = [end for row in rows for end in (row.gain.low or row.gain.value, row.gain.high or row.gain.value, 1.0)]
    reach = max(0.1, *(abs(end - 1) for end in ends)) * 1.2
    axes.set_xlim(1 - reach, 1 + reach)
    axes.set_xlabel("output throughput of the batch over that of singles (1: alike)")
    return figure


def _frame(title: str, source: str, panels: int) -> tuple[Figure, Sequence[Axes]]:
    """Empty panels beside each other, the finding above and where it comes from below."""
    figure, grid = plt.subplots(1, panels, figsize=SIZE_INCHES, squeeze=False)
    plt.close(figure)  # a notebook shows what a cell returns; without this it would show it twice
    figure.subplots_adjust(left=0.09, right=0.97, top=0.78, bottom=0.22, wspace=0.22)
    heading = textwrap.fill(title, TITLE_WIDTH + 12, break_on_hyphens=False, max_lines=4)
    figure.text(0.03, 0.965, heading, fontsize=17, weight="bold", va="top")
    figure.text(0.03, 0.03, source, fontsize=12, color="#555555", va="bottom", linespacing=1.4)
    for axes in grid[0]:
        axes.grid(axis="y", color="#DDDDDD", linewidth=1)
        axes.set_axisbelow(True)
    return figure, list(grid[0])


def _without_data(figure: Figure, panels: Sequence[Axes]) -> Figure:
    for axes in panels:
        axes.axis("off")
    panels[0].text(0.5, 0.5, NO_DATA, ha="center", transform=panels[0].transAxes)
    return figure


def _draw_rates(axes: Axes, one: Found, color: str, marker: str) -> None:
    rows = one.rows
    axes.plot([row.load for row in rows], [row.throughput.value for row in rows], color=color, marker=marker,
              markersize=9, linewidth=2.5, label=one.who)  # fmt: skip
    for row in rows:
        if row.throughput.low is not None and row.throughput.high is not None:
            axes.plot([row.load] * 2, [row.throughput.low, row.throughput.high], color=color, linewidth=2)
    for row in _at_knee(one):
        _ring(axes, one, row.load, row.throughput.value, color)


def _draw_waits(axes: Axes, one: Found, color: str, marker: str) -> None:
    known = [(row.load, row.ttft_p99_ms) for row in one.rows if row.ttft_p99_ms is not None]
    axes.plot([load for load, _ in known], [wait for _, wait in known], color=color, marker=marker, markersize=9,
              linewidth=2.5)  # fmt: skip
    for row in _at_knee(one):
        if row.ttft_p99_ms is not None:
            _ring(axes, one, row.load, row.ttft_p99_ms, color)


def _at_knee(one: Found) -> list[ConcurrencyRow]:
    return [row for row in one.rows if one.knee is not None and row.load == one.knee.load]


def _ring(axes: Axes, one: Found, x: float, y: float, color: str) -> None:
    style = "-" if one.knee is not None and one.knee.resolved else (0, (1, 1))
    axes.scatter([x], [y], s=480, facecolors="none", edgecolors=color, linewidths=2.5, linestyles=[style])


def _draw_gain(axes: Axes, place: int, row: BatchRow, color: str, marker: str) -> None:
    low, high = row.gain.low or row.gain.value, row.gain.high or row.gain.value
    axes.plot([low, high], [place, place], color=color if row.gain.low else FAINT, linewidth=3)
    fill = "white" if row.unresolved else color
    axes.plot(row.gain.value, place, marker, markersize=14, markerfacecolor=fill, markeredgecolor=color,
              markeredgewidth=2.5)  # fmt: skip
    axes.annotate(f"{row.gain.value:.2f}×", (row.gain.value, place), (0, 16), textcoords="offset points", ha="center",
                  weight="bold", color=color)  # fmt: skip


FIGURES = {"concurrency": concurrency, "batch": batch}
