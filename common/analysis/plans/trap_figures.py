"""Two traps as figures, from published measurements: memory that looks like speed-up, and what links decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.scaling.figures import FAINT, LOOKS, STYLE, apart, empty_figure, without_data
from common.core.published import HELD_BY_A_BASE, Published


@matplotlib.rc_context(STYLE)
def superlinear(cases: Sequence[Published]) -> Figure:
    """Speed-up over the smallest plan at each length of request; dashed: predicted with that plan's KV cache alone."""
    note = "solid: measured, published; dashed: predicted with the smallest plan's KV cache; grey: no device wasted"
    figure, axes = empty_figure(superlinear_finding(cases), _source(cases), note)
    if not cases:
        return without_data(figure, axes)
    figure.subplots_adjust(right=0.68)
    devices = sorted({count for case in cases for count in case.rates})
    ideal = [count / devices[0] for count in devices]
    axes.plot(devices, ideal, color=FAINT, linewidth=6, alpha=0.5, zorder=1)
    worst = _most_starved(cases)
    for case, (colour, marker) in zip(cases, LOOKS, strict=False):
        speedups = [case.speedup(count) for count in sorted(case.rates)]
        axes.plot(sorted(case.rates), speedups, marker=marker, markersize=11, color=colour, linewidth=2.5)
        if case is worst and case.pinned:
            _draw_pinned(axes, case, colour, marker)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(devices, [f"{count}" for count in devices])
    axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.minorticks_off()
    axes.set_xlim(devices[0] / 1.12, devices[-1] * 1.12)
    axes.set_xlabel("GPUs, tensor parallel")
    axes.set_ylabel(f"times {_gpus(devices[0])}")
    _name_lines(axes, cases)
    return figure


@matplotlib.rc_context(STYLE)
def links(cases: Sequence[Published]) -> Figure:
    """Throughput by number of GPUs over each kind of links, a panel per workload."""
    note = (
        "grey: no GPU wasted; SXM modules may draw more power than PCIe cards (400, 300 W): compare slopes, not heights"
    )
    figure, axes = empty_figure(links_finding(cases), _source(cases), note)
    if not cases:
        return without_data(figure, axes)
    axes.remove()
    workloads = list(dict.fromkeys(case.workload for case in cases))
    machines = list(dict.fromkeys(case.machine for case in cases))
    grid = figure.add_gridspec(1, len(workloads), left=0.08, right=0.97, top=0.78, bottom=0.24, wspace=0.2)
    for place, workload in enumerate(workloads):
        panel = figure.add_subplot(grid[0, place])
        panel.set_title(workload, fontsize=15, loc="left")
        for case in cases:
            if case.workload == workload:
                _draw_links(panel, case, LOOKS[machines.index(case.machine) % len(LOOKS)])
        _finish_panel(panel, cases, workload)
        if place == 0:
            panel.set_ylabel("output tokens per second")
    return figure


def superlinear_finding(cases: Sequence[Published]) -> str:
    """The largest speed-up beside what it shrinks to without the memory."""
    worst = _most_starved(cases)
    if worst is None:
        return "No published case is at hand"
    most = next(count for count in sorted(worst.rates) if count != worst.smallest)
    text = f"{_gpus(most)} give {worst.speedup(most):.1f} times {_gpus(worst.smallest)}"
    if most in worst.pinned:
        text += f"; with the KV cache of {_gpus(worst.smallest)}, {worst.pinned[most]:.1f} times are predicted"
    return text


def links_finding(cases: Sequence[Published]) -> str:
    """What the same GPUs gain over each kind of links, on the last workload."""
    last = [case for case in cases if case.workload == cases[-1].workload]
    if not last:
        return "No published case is at hand"
    gains = [f"{_kind(case)} {case.speedup(max(case.rates)):.1f} times" for case in last]
    first, most = last[0].smallest, max(last[0].rates)
    return f"From {first} to {most} GPUs of one kind, the same model, {last[0].workload}: {', '.join(gains)}"


def superlinear_said(cases: Sequence[Published]) -> list[str]:
    """A sentence per workload: the speed-up, what memory is predicted to hold, and the speed-up from a fair base."""
    return [_said(case) for case in cases]


def links_said(cases: Sequence[Published]) -> list[str]:
    """A sentence per workload and kind of links: what each doubling of the GPUs gives."""
    lines = []
    for case in cases:
        counts = sorted(case.rates)
        steps = [f"{more} give {case.speedup(more, fewer):.2f} times {fewer}" for fewer, more in pairwise(counts)]
        lines.append(f"{case.machine}, {case.workload}: {', '.join(steps)}.")
    return lines


def _said(case: Published) -> str:
    least, most, base = case.smallest, max(case.rates), case.base
    text = f"{case.workload}: {_gpus(most)} give {case.speedup(most):.1f} times {_gpus(least)}"
    if case.held:
        text += (
            f"; predicted to run at once are {_held(case, least)} requests on {least}, {_held(case, most)} on {most}"
        )
    if base is None:
        return f"{text}."
    if base == least:
        return f"{text}. The smallest plan holds {HELD_BY_A_BASE} and more: a fair base."
    fair = f"{case.speedup(most, base):.1f} times"
    return f"{text}. Against {_gpus(base)}, the fewest that hold {HELD_BY_A_BASE}: {fair}."


def _draw_pinned(axes: Axes, case: Published, colour: str, marker: str) -> None:
    counts = sorted(case.pinned)
    values = [case.pinned[count] for count in counts]
    axes.plot(counts, values, "--", color=colour, linewidth=2)
    axes.plot(counts[1:], values[1:], marker, color=colour, markersize=11, markerfacecolor="white", markeredgewidth=2)


def _name_lines(axes: Axes, cases: Sequence[Published]) -> None:
    """What each line is, at its end, apart from the others."""
    names = []
    for case, (colour, _) in zip(cases, LOOKS, strict=False):
        last = max(case.rates)
        held = f"\n({_gpus(case.smallest)}: {_held(case, case.smallest)} at once)" if case.held else ""
        names.append((case.speedup(last), f"{case.workload}: {case.speedup(last):.1f}×{held}", colour))
        if case is _most_starved(cases) and case.pinned:
            text = f"{case.workload}, predicted with\nthe KV cache of {_gpus(case.smallest)}: {case.pinned[last]:.1f}×"
            names.append((case.pinned[last], text, colour))
    heights = apart([math.log2(height) for height, _, _ in names], gap=0.85)
    right = max(count for case in cases for count in case.rates)
    for height, (_, text, colour) in zip(heights, names, strict=True):
        axes.annotate(text, (right, 2**height), (20, 0), textcoords="offset points", va="center", fontsize=12,
                      color=colour, weight="bold")  # fmt: skip


def _draw_links(axes: Axes, case: Published, look: tuple[str, str]) -> None:
    colour, marker = look
    counts = sorted(case.rates)
    axes.plot(
        counts, [case.rates[count] for count in counts], marker=marker, markersize=11, color=colour, linewidth=2.5
    )
    text = f"{_kind(case)}:\n{case.speedup(counts[-1]):.1f}×"
    axes.annotate(text, (counts[-1], case.rates[counts[-1]]), (14, 0), textcoords="offset points", va="center",
                  weight="bold", color=colour)  # fmt: skip
    first = case.rates[counts[0]]
    axes.plot(counts, [first * count / counts[0] for count in counts], color=FAINT, linewidth=1.5, zorder=1)


def _finish_panel(axes: Axes, cases: Sequence[Published], workload: str) -> None:
    alike = [case for case in cases if case.workload == workload]
    counts = sorted({count for case in alike for count in case.rates})
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.set_xlim(counts[0] - 0.4, counts[-1] + 0.45 * (counts[-1] - counts[0]))  # room for the names of the lines
    axes.set_ylim(0, 1.2 * max(case.rates[case.smallest] / case.smallest * counts[-1] for case in alike))
    axes.set_xlabel("GPUs, tensor parallel")
    axes.grid(axis="y", color="#DDDDDD", linewidth=1)
    axes.set_axisbelow(True)


def _most_starved(cases: Sequence[Published]) -> Published | None:
    """The case whose smallest step gives most beyond its devices."""
    return max(cases, key=lambda case: case.speedup(sorted(case.rates)[1]), default=None)


def _kind(case: Published) -> str:
    """What the GPUs talk over."""
    return case.machine.partition(", ")[2].partition(" ")[0]


def _held(case: Published, devices: int) -> str:
    """Requests at once, rounded down: half a request does not run."""
    return f"{math.floor(case.held[devices])}"


def _gpus(count: int) -> str:
    return "one GPU" if count == 1 else f"{count} GPUs"


def _source(cases: Sequence[Published]) -> str:
    """Machine, model, engine and URL of what is shown."""
    if not cases:
        return "no source"
    machines = dict.fromkeys(case.machine.partition(", ")[0] for case in cases)
    first = cases[0]
    return f"{' and '.join(machines)} | {first.model} | {first.engine}\n{first.source}"
