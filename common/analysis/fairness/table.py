"""The table of mixed load, for a terminal of 80 columns, and the summary of the last line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from common.analysis.fairness.reading import (
    classes_of,
    compared,
    estimate,
    fewest_requests,
    mixes,
    read_fairness,
    total,
    variant_of,
)
from common.analysis.scaling.rows import sampling_unit, standing
from common.analysis.scaling.table import NOT_MEASURED, framed, say, stdout
from common.analysis.wording import about
from common.core.fairness import FEWEST_FOR_P99
from common.core.mix import RequestClass
from common.store.schema import Case, Result

LEFT = ("plan", "engine", "class")
COLUMNS = [
    *LEFT,
    *("TTFT alone s", "TTFT together s", "TTFT slow- down", "E2EL slow- down", "halt s", "Jain", "starved"),
]


def print_fairness(result: Result, console: Console | None = None, said: Sequence[str] = ()) -> None:
    """The table and how to read it."""
    console = console or stdout()
    console.print(f"[bold]Mixed load[/]  {about(result)}", soft_wrap=True)
    frame = fairness_shown(result)
    console.print(framed(frame, left=LEFT, heading_lines=3) if len(frame) else NOT_MEASURED)
    unit = sampling_unit(mixes(result))
    console.print(
        "TTFT: p99, from the intended send; slowdown: p99, over the class's median alone;\n"
        f"halt: longest gap inside an answer; intervals below: 95 %, {unit};\n"
        "Jain: 1 where all requests of a class are slowed alike; starved: of all repeats'\n"
        "requests, those whose first token came after ten times the class's p99 alone\n",
        markup=False,
    )
    say(console, read_fairness(result), said)


def fairness_shown(result: Result) -> pd.DataFrame:
    """The table as text, one row per plan, engine variant and class of requests."""
    records = [_cells(case, one) for case in mixes(result) for one in classes_of(case)]
    return pd.DataFrame(records, columns=COLUMNS, index=[""] * len(records))


def fairness_summary(result: Result) -> dict[str, Any]:
    """Every case's p99 slowdowns with interval, and every comparison's changes."""
    summary: dict[str, Any] = {case.id: standing(case) for case in result.cases}
    for case in mixes(result):
        for one in classes_of(case):
            for metric in ("ttft", "e2el"):
                for key in (f"{one.name}_p99_{metric}_slowdown", f"{one.name}_p99_{metric}_over_alone"):
                    if (found := estimate(case, key, "")) is not None:
                        summary[case.id][key] = _numbers(found.value, found.low, found.high)
    for _, case, against, made in compared(result):
        summary[f"{case.id} over {variant_of(against)}"] = {
            change.ratio.metric: _numbers(change.ratio.value, change.ratio.low, change.ratio.high) for change in made
        }
    return summary


def _numbers(value: float, low: float | None, high: float | None) -> dict[str, float]:
    numbers = {"value": value, "low": low, "high": high}
    return {name: round(number, 4) for name, number in numbers.items() if number is not None}


def _cells(case: Case, one: RequestClass) -> list[str]:
    name, failed = one.name, total(case, f"{one.name}_failed")

    def shown(key: str, unit: float = 1.0) -> str:
        found = estimate(case, key)
        if found is not None:
            return f"{found.value / unit:.3g}"
        return f"{failed} failed" if failed else ""

    return [
        str(case.plan),
        f"{variant_of(case)}{' INVALID' if case.is_invalid else ''}",
        f"{name}{'^' if fewest_requests(case, one) < FEWEST_FOR_P99 else ''}",
        *(shown(key, 1e3) for key in (f"alone_{name}_p99_ttft_ms", f"{name}_p99_ttft_ms")),
        *(shown(f"{name}_p99_{metric}_slowdown") for metric in ("ttft", "e2el")),
        shown(f"{name}_max_itl_ms", 1e3),
        shown(f"{name}_jain"),
        f"{total(case, f'{name}_starved')}/{total(case, f'{name}_requests')}",
    ]
