"""Figures of a comparison of plans: the Pareto front, and each plan as a diagram of its devices."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from common.analysis.plans.anatomy import mlp_words, size_words, span, traffic_words
from common.analysis.plans.goals import recommend
from common.analysis.plans.points import Point, plan_points, started
from common.analysis.scaling.figures import (
    FAINT,
    INK,
    LOOKS,
    STYLE,
    empty_figure,
    without_data,
)
from common.analysis.scaling.rows import by_model
from common.analysis.wording import about
from common.core.layout import RankShare, layout
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.traffic import exchanges
from common.core.weight_split import share_parameters
from common.store.schema import Result

MOST_PANELS, MOST_DEVICES = 6, 8
PANEL_POINTS, LARGEST_TEXT = (250.0, 180.0), 11.0  # width and height of a panel, as it is drawn below
ALL_REDUCES, SENDS = "#D55E00", "#0072B2"


@matplotlib.rc_context(STYLE)
def pareto(result: Result) -> Figure:
    """Every plan and load of the run's own model by latency and tokens per second and device; the front as a line."""
    own = by_model(result)[0]
    points = plan_points(own)
    note = "number: streams; filled and joined: the Pareto front; hollow: beaten in both by something on it"
    figure, axes = empty_figure(_pareto_finding(own, points), about(own), note)
    if not points:
        return without_data(figure, axes)
    plans = list(dict.fromkeys(point.plan for point in points))
    front = sorted((point for point in points if point.on_front), key=lambda point: point.latency_s)
    axes.plot([p.latency_s for p in front], [p.per_device for p in front], color=FAINT, linewidth=2, zorder=1)
    for plan, (colour, marker) in zip(plans, LOOKS * (len(plans) // len(LOOKS) + 1), strict=False):
        own_points = [point for point in points if point.plan == plan]
        for point in own_points:
            look: dict[str, Any] = {
                "facecolor": colour if point.on_front else "white",
                "edgecolor": colour,
                "linewidth": 2,
            }
            axes.scatter(point.latency_s, point.per_device, marker=marker, s=140, zorder=3, **look)
            where = (point.latency_s, point.per_device)
            axes.annotate(f"{point.streams:g}", where, (9, -4), textcoords="offset points", fontsize=12, color=colour)
        axes.scatter([], [], marker=marker, s=110, facecolor=colour, edgecolor=colour, label=str(plan))
    axes.set_ylim(0, 1.15 * max(point.per_device for point in points))
    axes.set_xlim(0, 1.1 * max(point.latency_s for point in points))
    axes.set_xlabel("seconds, the median request from sent to done (less is better)")
    axes.set_ylabel("output tokens per second and device")
    axes.legend(fontsize=13, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.subplots_adjust(right=0.85)
    return figure


@matplotlib.rc_context(STYLE)
def anatomy(result: Result) -> Figure:
    """Plans of several devices as diagrams: a box per device with what it holds, arrows for what devices exchange."""
    panels = [(part, plan) for part in by_model(result) for plan in started(part) if _drawable(plan, part)]
    shown = panels[:MOST_PANELS]
    figure, axes = empty_figure("Who holds what, and who sends what", about(result), _anatomy_note(len(panels)))
    if not shown:
        return without_data(figure, axes)
    axes.remove()
    rows = math.ceil(len(shown) / 3)
    grid = figure.add_gridspec(rows, min(3, len(shown)), left=0.03, right=0.97, top=0.87, bottom=0.13, hspace=0.12)
    several = len(by_model(result)) > 1
    for place, (part, plan) in enumerate(shown):
        panel = figure.add_subplot(grid[place // 3, place % 3])
        title = f"{plan}  ({part.config['model']})" if several else str(plan)
        _draw_plan(panel, title, plan, ModelShape(**part.config["model_shape"]))
    plt.close(figure)
    return figure


def _draw_plan(axes: Axes, title: str, plan: ParallelPlan, shape: ModelShape) -> None:
    """Stages from left to right, ranks of a stage and copies of the model from top to bottom."""
    shares = layout(plan, shape)
    height = plan.devices // plan.pp
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.axis("off")
    axes.text(0, 0.98, title, fontsize=15, weight="bold", va="top")
    wide, tall = 1 / plan.pp, 0.68 / height
    for share in shares:
        line = (share.replica * plan.dp + share.dp_rank) * plan.tp + share.tp_rank
        left, bottom = share.stage * wide, 0.88 - (line + 1) * tall
        box = (left + 0.02, bottom + 0.12 * tall)
        _draw_device(axes, box, (wide - 0.12, 0.76 * tall), _device_words(share, shape, plan))
        if not share.last_stage:
            begin, end = (left + wide - 0.09, bottom + tall / 2), (left + wide + 0.01, bottom + tall / 2)
            axes.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=16, color=SENDS, linewidth=2))
        if share.tp_rank:
            middle = left + (wide - 0.1) / 2
            top = bottom + 1.12 * tall
            style: dict[str, Any] = {
                "arrowstyle": "<|-|>",
                "mutation_scale": 14,
                "color": ALL_REDUCES,
                "linewidth": 2,
                "linestyle": "-",
            }
            axes.add_patch(FancyArrowPatch((middle, top - 0.24 * tall), (middle, top), **style))
    axes.text(0, 0.12, _traffic_lines(plan, shape), fontsize=10.5, va="top", color=INK, linespacing=1.3)


def _draw_device(axes: Axes, corner: tuple[float, float], size: tuple[float, float], lines: list[str]) -> None:
    """A box with its lines, as large as they fit."""
    style = "round,pad=0.0,rounding_size=0.015"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, facecolor="#EEF4F9", edgecolor=FAINT, linewidth=1.2))
    wide, tall = size[0] * PANEL_POINTS[0], size[1] * PANEL_POINTS[1]
    points = min(LARGEST_TEXT, tall / (1.35 * len(lines)), 0.92 * wide / (0.56 * max(map(len, lines))))
    where = (corner[0] + 0.04 * size[0], corner[1] + size[1] / 2)
    axes.text(*where, "\n".join(lines), fontsize=points, va="center", linespacing=1.2)


def _device_words(share: RankShare, shape: ModelShape, plan: ParallelPlan) -> list[str]:
    weights = size_words(share_parameters(shape, share, plan.tp) * shape.dtype_bytes)
    layers, heads = f"layers {span(share.layers)}", f"heads {span(share.heads)}, KV {span(share.kv_heads)}"
    between = [layers, heads] if plan.pp > 1 else [f"{layers}, {heads}"]
    return [f"device {share.rank}: {weights}", *between, mlp_words(share)]


def _traffic_lines(plan: ParallelPlan, shape: ModelShape) -> str:
    found = exchanges(plan, shape)
    if not found:
        return f"sends {traffic_words(plan, shape)}"
    said = [f"{exchange.calls} x {exchange.operation}: {size_words(exchange.bytes_per_token)}" for exchange in found]
    return "per token: " + "\n".join(said)


def _drawable(plan: ParallelPlan, part: Result) -> bool:
    return 1 < plan.devices <= MOST_DEVICES and bool(part.config.get("model_shape"))


def _anatomy_note(panels: int) -> str:
    note = (
        "orange: all-reduce between ranks that share layers; blue: send and receive between stages; others never talk"
    )
    return note if panels <= MOST_PANELS else f"{note}; the first {MOST_PANELS} of {panels} plans"


def _pareto_finding(result: Result, points: list[Point]) -> str:
    """Who is on the front, and which plan earns most."""
    if not points:
        return "No plan was measured"
    front = list(dict.fromkeys(str(point.plan) for point in points if point.on_front))
    text = f"On the Pareto front: {', '.join(front)}"
    best = recommend(result, "throughput")
    return text if best is None else f"{text}; most tokens per second in all: {best.plan}"


FIGURES = {"pareto": pareto, "anatomy": anatomy}
