"""What an experiment prints at its end: the table, how to read it, and one JSON line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.analysis.reading import interval, read_scaling
from common.analysis.scaling import ScalingRow, sampling_unit, scaling_rows
from common.core.stats import Estimate
from common.store.schema import Result

NARROWEST = 80


def print_scaling(result: Result, console: Console | None = None) -> None:
    """The scaling table and its reading, on stdout."""
    console = console or _stdout()
    rows = scaling_rows(result)
    unit = sampling_unit(result)
    table = Table(
        title=f"Scaling of {result.config['model']}", caption=f"[ ] 95 % interval, {unit}", caption_justify="left"
    )
    for name, right in (("curve", False), ("plan", False), ("streams", True), ("tok/s", True), ("TTFT ms", True),
                        ("TPOT ms", True), ("speed-up", True), ("eff.", True)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for index, row in enumerate(rows):
        last_of_group = index + 1 == len(rows) or _group_of(rows[index + 1]) != _group_of(row)
        table.add_row(*_cells(row), end_section=last_of_group)
    console.print(table)
    for line in read_scaling(result):
        console.print(f"- {line}", soft_wrap=True)


def print_last_line(path: Path | None, status: str, summary: dict[str, Any]) -> None:
    """The last line on stdout: one JSON document, for scripts."""
    document = {"result": None if path is None else str(path), "status": status, "summary": summary}
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def scaling_summary(result: Result) -> dict[str, Any]:
    """Speed-ups by case id, for the last line."""
    return {
        row.case.id: _numbers(row.speedup)
        | {"output_throughput": round(row.throughput.value, 2) if row.throughput else None}
        for row in scaling_rows(result)
        if row.speedup is not None
    }


def _group_of(row: ScalingRow) -> tuple[str, float]:
    if row.curve == "weak":
        return row.curve, row.load / row.case.plan.devices
    return row.curve, 0.0 if row.curve == "saturated" else row.load


def _cells(row: ScalingRow) -> list[str]:
    case = row.case
    if case.status != "ok" or row.throughput is None:
        reason = case.error.kind if case.error else ""
        return [row.curve, str(case.plan), "", "", "", "", case.status, reason]
    gained = "base" if row.is_base else interval(row.speedup) if row.speedup else ""
    plan = f"{case.plan}{' (oversubscribed)' if 'oversubscribed' in case.flags else ''}"
    return [
        row.curve,
        plan,
        str(row.load),
        f"{row.throughput.value:.1f}",
        "" if row.ttft_ms is None else f"{row.ttft_ms:.0f}",
        "" if row.tpot_ms is None else f"{row.tpot_ms:.1f}",
        gained,
        "" if row.efficiency is None else f"{row.efficiency.value:.0%}",
    ]


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {}
    values = {"speedup": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: round(value, 4) for name, value in values.items() if value is not None}


def _stdout() -> Console:
    """A pipe has no width; the table then takes what it needs, at least 80 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(NARROWEST, 100))
