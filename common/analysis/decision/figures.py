"""The decision's figures: 16:9, readable on a slide, no meaning by colour alone."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.concurrency.rows import GOOD_ENOUGH
from common.analysis.decision.answer import Carried, Decision
from common.analysis.decision.reading import PREDICTED, dollars, engines_words, limits_words, number, rate_words
from common.analysis.scaling.figures import INK, LOOKS, STYLE, empty_figure, without_data
from common.core.capacity import need
from common.core.plural import plural

STEPS = 400  # of the rate, over the width of the figure
WIDE = 2.5  # times the asked rate


@matplotlib.rc_context(STYLE)
def within(decision: Decision, source: str) -> Figure:
    """The share of requests within the limits over the rate, for every measured plan; hollow: by the clock."""
    note = "ring: the load that is counted on; dashed: to the first that was not within, the truth lies between"
    note += "" if all(load.is_exact for load in decision.loads) else "; pale bar: between the bounds that can be shown"
    best = [one for one in decision.plans if one.best is not None]
    found = "; ".join(f"{one.plan} carries {number(one.best.sized)}/s" for one in best if one.best)
    limits = limits_words(decision.question.limits_ms)
    title = f"Within {limits}: {found}" if best else f"No plan was seen to keep {limits}"
    figure, axes = empty_figure(title, source, note)
    if not decision.plans:
        return without_data(figure, axes)
    for one, (color, marker) in zip(decision.plans, LOOKS, strict=False):
        _draw_plan(axes, one, decision, color, marker)
    axes.axhline(100 * GOOD_ENOUGH, color=INK, linewidth=1.5, linestyle=":")
    axes.text(1.005, 100 * GOOD_ENOUGH, "90 %", va="center", fontsize=12, transform=axes.get_yaxis_transform())
    axes.set_ylim(-4, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlim(left=0)
    axes.set_xlabel("requests per second")
    axes.set_ylabel("% of requests within the limits")
    axes.legend(loc="lower left", frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def cost(decision: Decision, source: str) -> Figure:
    """What every plan takes over the rate: dollars a month where a price is known, else devices."""
    question, each = decision.question, decision.question.prices.rented_usd
    what = "dollars a month, whole machines" if each is not None else "devices, the spare engine's included"
    note = "one engine spare; rates are counted at the low end of their interval"
    note += f"; dashed: {PREDICTED}, not measured" if any(one.predicted for one in decision.capacities) else ""
    figure, axes = empty_figure(_cost_title(decision), source, note)
    if not decision.capacities:
        return without_data(figure, axes)
    figure.subplots_adjust(left=0.12)
    rates = np.linspace(question.rate * WIDE / STEPS, question.rate * WIDE, STEPS)
    for place, (capacity, (color, marker)) in enumerate(zip(decision.capacities, LOOKS, strict=False)):
        taken = [need(capacity, float(rate), question.machine_devices) for rate in rates]
        heights = np.array([one.devices if each is None else one.machines * each for one in taken])
        name = f"{capacity.engine}, {PREDICTED}" if capacity.predicted else str(capacity.engine)
        # a hair apart: steps of plans that need the same would hide each other
        axes.step(rates, heights * (1 + 0.012 * place), where="pre", color=color, linewidth=3 if place == 0 else 2.5,
                  linestyle="--" if capacity.predicted else "-", label=name, marker=marker,
                  markevery=(40 + 7 * place, 90), markersize=9)  # fmt: skip
    axes.axvline(question.rate, color=INK, linewidth=1.5, linestyle=":")
    axes.annotate(f"asked: {number(question.rate)}/s", (question.rate, 0.02), (6, 0), fontsize=13,
                  xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
    axes.set_xlim(0, rates[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: _tick(value, each is not None))
    axes.set_xlabel("requests per second")
    axes.set_ylabel(what)
    axes.legend(loc="upper left", frameon=False)
    return figure


Draw = Callable[[Decision, str], Figure]
FIGURES: dict[str, Draw] = {"cost": cost, "within": within}


def drawings(decision: Decision) -> dict[str, Draw]:
    """Figures by name that the decision has data for."""
    has = {"cost": bool(decision.capacities), "within": bool(decision.loads)}
    return {name: draw for name, draw in FIGURES.items() if has[name]}


def _cost_title(decision: Decision) -> str:
    chosen = decision.chosen
    if chosen is None:
        return "No measured plan keeps the limits"
    kind = f"{PREDICTED}: " if chosen.capacity.predicted else ""
    each = decision.question.prices.rented_usd
    usd = "" if each is None else f", {dollars(each * chosen.machines)} a month"
    rate = decision.question.rate
    return (
        f"{kind}{rate_words(rate)} {'takes' if rate == 1 else 'take'} {engines_words(chosen)}, one of them spare,"
        f" on {plural(chosen.machines, 'machine')}{usd}"
    )


def _tick(value: float, is_money: bool) -> str:
    short = f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"${short}" if is_money else short


def _draw_plan(axes: Axes, one: Carried, decision: Decision, color: str, marker: str) -> None:
    for by_clock in (False, True):
        loads = [load for load in one.loads if load.by_clock == by_clock]
        if not loads:
            continue
        shares = [load.share(decision.question.limits_ms) for load in loads]
        rates = [load.rate.value for load in loads]
        name = f"{one.plan}, by the clock" if by_clock else str(one.plan)
        axes.plot(rates, [100 * share.low for share in shares], marker, color=color, markersize=10, label=name,
                  markerfacecolor="white" if by_clock else color, markeredgewidth=2)  # fmt: skip
        for rate, share in zip(rates, shares, strict=True):
            axes.plot([rate, rate], [100 * share.low, 100 * share.high], color=color, linewidth=5, alpha=0.35)
    if one.best is None:
        return
    height = 100 * one.best.share(decision.question.limits_ms).low
    axes.scatter([one.best.rate.value], [height], s=420, facecolors="none", edgecolors=color, linewidths=2.5)
    axes.annotate(f"{one.plan}\n{one.best.words}", (one.best.rate.value, height), (0, 14), ha="center", fontsize=12,
                  textcoords="offset points", color=color)  # fmt: skip
    if one.failed is not None:
        lower = 100 * one.failed.share(decision.question.limits_ms).low
        axes.plot([one.best.rate.value, one.failed.rate.value], [height, lower], "--", color=color, linewidth=1.5)
