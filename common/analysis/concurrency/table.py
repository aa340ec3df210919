"""The concurrency table, for a terminal of 80 columns, and its numbers for the last line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from rich.console import Console

from common.analysis.concurrency.reading import read_concurrency
from common.analysis.concurrency.rows import (
    CURVES,
    ConcurrencyRow,
    batch_rows,
    concurrency_cases,
    concurrency_rows,
    found,
)
from common.analysis.scaling.rows import sampling_unit, standing
from common.analysis.scaling.table import NOT_MEASURED, framed, say, stdout
from common.analysis.wording import about
from common.core.arrivals import OpenLoop
from common.store.schema import Result

LEGEND = (
    "TTFT, TPOT: p50/p99; good: requests within --slo; queue: wait at the server",
    "Jain: 1 where all clients got the same; < knee: most throughput per waiting",
)


def print_concurrency(result: Result, console: Console | None = None, said: Sequence[str] = ()) -> None:
    """The concurrency table and how to read it."""
    console = console or stdout()
    rows = measured(result)
    console.print(f"[bold]Concurrency[/]  {about(result)}", soft_wrap=True)
    if rows:
        ends = [place for place, (one, following) in enumerate(pairwise(rows)) if one.who != following.who]
        console.print(framed(shown(result), ends, left=("plan", "knee"), heading_lines=1))
        unit = "" if result.config.get("external") else f", {sampling_unit(concurrency_cases(result))}"
        for line in (f"tok/s: mean of repeats{unit}", *LEGEND):
            console.print(line, markup=False)
    else:
        console.print(NOT_MEASURED)
    console.print()
    say(console, read_concurrency(result), said)


def measured(result: Result) -> list[ConcurrencyRow]:
    """Closed loops, then open ones."""
    return [row for curve in CURVES for row in concurrency_rows(result, curve)]


def shown(result: Result) -> pd.DataFrame:
    """The table as text, one row per measured case."""
    names = ["plan", "load", "tok/s", "TTFT ms", "TPOT ms", "good", "queue ms", "Jain", "knee"]
    knees = {one.who: one.knee for one in found(result)}
    rows = measured(result)
    cells = []
    for row in rows:
        knee = knees.get(row.who) if row.case.curve == "closed" else None
        mark = "" if knee is None or knee.load != row.load else "<" if knee.resolved else "<?"
        cells.append([*_cells(row), "INVALID" if row.case.is_invalid else mark])
    return pd.DataFrame(cells, columns=names, index=[""] * len(rows))


def concurrency_summary(result: Result) -> dict[str, Any]:
    """Numbers of every case by its id, and of every plan its knee and what a batch gains."""
    summary: dict[str, Any] = {case.id: standing(case) for case in result.cases}
    for row in measured(result):
        numbers = {
            "output_throughput": row.throughput.value,
            "p50_ttft_ms": row.ttft_ms,
            "p99_ttft_ms": row.ttft_p99_ms,
            "p50_tpot_ms": row.tpot_ms,
            "p99_tpot_ms": row.tpot_p99_ms,
            "good_fraction": row.good_fraction,
            "mean_queue_ms": row.queue_ms,
            "max_requests_waiting": row.waiting,
            "slot_fairness": row.fairness,
        }
        summary[row.case.id] |= {name: round(value, 4) for name, value in numbers.items() if value is not None}
    for one in found(result):
        if one.knee is not None:
            between = [one.knee.between[0], one.knee.between[1]]
            summary[f"{one.who}/knee"] = {"load": one.knee.load, "resolved": one.knee.resolved, "between": between}
    for batch in batch_rows(result):
        gain = {"gain": batch.gain.value, "low": batch.gain.low, "high": batch.gain.high}
        name = f"{batch.who}/{'batch' if batch.way == 'one request' else 'batch-offline'}/n{batch.requests}"
        summary[name] |= {key: round(value, 4) for key, value in gain.items() if value is not None}
    return summary


def _cells(row: ConcurrencyRow) -> list[str]:
    load = f"{row.load:g}/s" if isinstance(row.case.arrivals, OpenLoop) else f"{row.load:g}"
    return [
        row.who,
        load,
        _number(row.throughput.value),
        _pair(row.ttft_ms, row.ttft_p99_ms, row.thin),
        _pair(row.tpot_ms, row.tpot_p99_ms, row.thin),
        "" if row.good_fraction is None else f"{row.good_fraction:.0%}",
        _number(row.queue_ms),
        "" if row.fairness is None else f"{row.fairness:.3f}",
    ]


def _pair(middle: float | None, tail: float | None, thin: bool) -> str:
    return "" if middle is None or tail is None else f"{_number(middle)}/{'~' if thin else ''}{_number(tail)}"


def _number(value: float | None) -> str:
    """At least two digits that mean something; nothing where there is no value."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
