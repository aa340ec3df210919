"""Figures of mixed load: who waits when, and what each engine variant makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.fairness.reading import (
    LONG,
    SHORT,
    classes_of,
    estimate,
    finding,
    mixes,
    plans_of,
    setting,
    variant_of,
)
from common.analysis.scaling.figures import FAINT, INK, LOOKS, STYLE, empty_figure, without_data
from common.analysis.scaling.rows import OVER, sampling_unit
from common.analysis.wording import about
from common.core.record import RequestRecord
from common.store.files import ResultPaths
from common.store.requests import load_requests, requests_file
from common.store.schema import Case, Result

ON_AND_OFF = ("on", "off")
ALWAYS = ("on", "off", "control", "threshold", "priority")  # a variant has the same look in every figure
COSTS = (
    (SHORT, "p99_ttft", "short:\np99 TTFT"),
    (SHORT, "p99_e2el", "short:\np99 E2EL"),
    (SHORT, "max_itl", "short:\nlongest standstill"),
    (LONG, "p99_ttft", "long:\np99 TTFT"),
    (LONG, "p99_e2el", "long:\np99 E2EL"),
)

Records = Mapping[str, Sequence[RequestRecord]]


def first_repeat(place: Path, result: Result) -> dict[str, list[RequestRecord]]:
    """The requests of every case's first repeat, all classes together, by the case's id; what was not kept is absent.

    Args:
        place: the result's file; its requests lie beside it.
        result: what stands in it.
    """
    folder = ResultPaths(place).requests
    found = {case.id: requests_file(folder, case.id, int(case.repeats[0]["start"]), 0) for case in mixes(result)}
    return {case_id: load_requests(path) for case_id, path in found.items() if path.is_file()}


@matplotlib.rc_context(STYLE)
def waiting(result: Result, requests: Records) -> Figure:
    """TTFT of every short request over the time it came, chunked prefill on against off; long arrivals are marked."""
    note = "one repeat of the smallest plan; dashed: a long prompt comes; latency from the intended send"
    figure, axes = empty_figure(finding(result), about(result), note)
    plans = plans_of(result)
    shown = [case for case in mixes(result, plans[0]) if variant_of(case) in ON_AND_OFF] if plans else []
    shown = [case for case in shown if case.id in requests]
    if not shown:
        return without_data(figure, axes)
    for case in shown:
        _draw_requests(axes, case, requests[case.id])
    axes.set_xlabel("seconds since the first request")
    axes.set_ylabel("seconds to the first token")
    axes.set_xlim(left=-0.2)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=13, loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=2, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def costs(result: Result) -> Figure:
    """How many times as long as alone each class takes under every variant, with intervals."""
    over = OVER[sampling_unit(mixes(result))]
    note = f"logarithmic scale; bars: 95 % interval over {over}; hollow: not resolved from no loss"
    figure, axes = empty_figure(finding(result), about(result), note)
    plans = plans_of(result)
    if not plans:
        return without_data(figure, axes)
    cases = mixes(result, plans[0])
    for index, case in enumerate(cases):
        _draw_costs(axes, case, (index - (len(cases) - 1) / 2) * 0.8 / len(cases))
    axes.axhline(1, color=INK, linewidth=1.5, zorder=1)
    axes.text(1.005, 1, "alone", va="center", fontsize=12, transform=axes.get_yaxis_transform())
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}×")
    axes.set_ylim(top=2 * axes.get_ylim()[1])
    axes.set_xticks(range(len(COSTS)), [label for *_, label in COSTS])
    axes.set_xlim(-0.5, len(COSTS) - 0.5)
    axes.set_ylabel(f"together over alone, {plans[0]}")
    axes.legend(fontsize=12, loc="upper right", frameon=False)
    return figure


def _look(case: Case) -> tuple[str, str]:
    variant = variant_of(case)
    return LOOKS[ALWAYS.index(variant) if variant in ALWAYS else -1]


def _doubt(case: Case) -> str:
    return " INVALID" if case.is_invalid else ""


def _draw_requests(axes: Axes, case: Case, records: Sequence[RequestRecord]) -> None:
    color, marker = _look(case)
    begin_ns = min((record.intended_ns for record in records if record.intended_ns is not None), default=0)
    points = []
    for record in records:
        if record.intended_ns is None:
            continue
        came_s = (record.intended_ns - begin_ns) / 1e9
        if record.request_class == LONG:
            axes.axvline(came_s, color=FAINT, linestyle="--", linewidth=2, zorder=1)
        elif record.ok and record.chunk_ns:
            points.append((came_s, (record.chunk_ns[0] - record.intended_ns) / 1e9))
    came, waited = [came_s for came_s, _ in points], [waited_s for _, waited_s in points]
    axes.plot(came, waited, marker, color=color, markersize=9, alpha=0.8, label=f"{setting(case)}{_doubt(case)}")


def _draw_costs(axes: Axes, case: Case, shift: float) -> None:
    color, marker = _look(case)
    names = {one.name for one in classes_of(case)}
    label: str | None = f"{variant_of(case)}{_doubt(case)}"
    for place, (name, figure, _) in enumerate(COSTS):
        found = estimate(case, f"{name}_{figure}_over_alone", "") if name in names else None
        if found is None:
            continue
        axes.plot([place + shift] * 2, [found.low or found.value, found.high or found.value], color=color, linewidth=3)
        text = f"{found.value:.2g}" if found.value < 10 else f"{found.value:.0f}"
        fill = "white" if found.unresolved else color
        axes.plot(place + shift, found.value, marker, markersize=12, markerfacecolor=fill, markeredgecolor=color,
                  markeredgewidth=2.5, linestyle="none", label=label)  # fmt: skip
        axes.annotate(text, (place + shift, found.high or found.value), (0, 8), ha="center",
                      textcoords="offset points", fontsize=11, color=color)  # fmt: skip
        label = None
