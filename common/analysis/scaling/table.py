"""The scaling table and the memory table, for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from common.analysis.frames import memory_frame, usd_per_million
from common.analysis.scaling.reading import read_scaling
from common.analysis.scaling.rows import ScalingRow, group, sampling_unit, scaling_cases, scaling_rows
from common.analysis.wording import about, interval
from common.store.schema import Result

NARROWEST = 80
OVERSUBSCRIBED = "*"
NOT_MEASURED = "no case was measured to its end"
LEFT = ("curve", "plan")  # text; everything else is a number and stands to the right


def print_scaling(result: Result, console: Console | None = None) -> None:
    """The scaling table, the memory table and how to read them."""
    console = console or stdout()
    rows = measured_rows(result)
    console.print(f"[bold]Scaling[/]  {about(result)}", soft_wrap=True)
    groups = [(row.curve, group(row.case)) for row in rows]
    ends = [index for index, (one, following) in enumerate(pairwise(groups)) if one != following]
    if rows:
        console.print(framed(shown(result), ends))
    else:
        console.print(NOT_MEASURED)
    console.print(f"[ ] 95 % interval, {sampling_unit(scaling_cases(result))}; times are medians", markup=False)
    if "usd_per_hour" in result.cost:
        console.print("$/M out: per million output tokens, at the whole machine's price")
    if any("oversubscribed" in row.case.flags for row in rows):
        console.print(f"{OVERSUBSCRIBED} more devices than the machine has: no efficiency")
    if any(row.curve == "replay" for row in rows):
        console.print("replay: xN scales its times; speed-up is that of the median request's latency")
    memory = memory_shown(result)
    if len(memory):
        console.print("\n[bold]Memory[/]  per plan; weights/n is what splitting should leave on each device")
        console.print(framed(memory))
    console.print()
    say(console, read_scaling(result))


def shown(result: Result) -> pd.DataFrame:
    """The scaling table as text, one row per measured row; cases that did not run are named below the table."""
    names = ["curve", "plan", "streams", "tok/s", "TTFT ms", "TPOT ms", "speed-up", "eff.", "$/M out"]
    rows = measured_rows(result)
    frame = pd.DataFrame([_cells(row, result) for row in rows], columns=names, index=[""] * len(rows))
    return frame if "usd_per_hour" in result.cost else frame.drop(columns="$/M out")


def memory_shown(result: Result) -> pd.DataFrame:
    """The memory table as text."""
    names = ["plan", "weights MB/device", "weights/n MB", "memory MB/device", "KV tokens", "start-up s"]
    records = [
        [
            row["plan"],
            _number(row["weight_bytes_per_device"], 1e6),
            _number(row["expected_weight_bytes"], 1e6),
            _number(row["memory_bytes_per_device"], 1e6),
            _number(row["kv_cache_tokens"], 1),
            _number(row["startup_s"], 1),
        ]
        for row in memory_frame(result).to_dict("records")
    ]
    return pd.DataFrame(records, columns=names, index=[""] * len(records))


def measured_rows(result: Result) -> list[ScalingRow]:
    """The rows that have numbers."""
    return [row for row in scaling_rows(result) if row.throughput is not None]


def stdout() -> Console:
    """A pipe has no width; a table then takes the 80 columns that every terminal has."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=NARROWEST)


def say(console: Console, lines: Sequence[str], said: Sequence[str] = ()) -> None:
    """Sentences below a table, one to a line and whole, for grep; those that were said already are left out."""
    for line in dict.fromkeys(lines):
        if line not in said:
            console.print(f"- {line}", soft_wrap=not console.is_terminal, markup=False)


def plain(text: str) -> str:
    """Without characters that a terminal obeys: the file may be anybody's."""
    return "".join(char if char.isprintable() else "?" for char in text)


def empty_table() -> Table:
    """A table of the house, without columns."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def framed(frame: pd.DataFrame, ends: Sequence[int] = (), left: Sequence[str] = LEFT, heading_lines: int = 2) -> Table:
    """A frame of texts as a table of the house.

    `ends` are rows after which a group ends, `left` the columns of text; headings are broken at so many lines' spaces.
    """
    table = empty_table()
    for name in map(str, frame.columns):
        title = "\n".join(name.split(" ", heading_lines - 1))  # narrow columns: the unit goes below
        table.add_column(title, justify="left" if name in left else "right", no_wrap=name != "speed-up")
    for index, cells in enumerate(frame.itertuples(index=False)):
        table.add_row(*map(str, cells), end_section=index in ends)
    return table


def _cells(row: ScalingRow, result: Result) -> list[str]:
    assert row.throughput is not None
    rate = row.throughput.value
    gained = "base" if row.is_base else interval(row.speedup) if row.speedup else ""
    gained = "INVALID" if row.case.is_invalid else gained
    mark = OVERSUBSCRIBED if "oversubscribed" in row.case.flags else ""
    usd = usd_per_million(row, result)
    return [
        row.curve,
        f"{row.case.plan}{mark}",
        f"x{row.load:g}" if row.curve == "replay" else f"{row.load:g}",
        _number(rate, 1),
        _number(row.ttft_ms, 1),
        _number(row.tpot_ms, 1),
        gained,
        "" if row.efficiency is None else f"{row.efficiency.value:.0%}",
        "" if usd is None else f"{usd:.2f}",
    ]


def _number(value: float | None, unit: float) -> str:
    """At least two digits that mean something; nothing where there is no value."""
    if value is None or math.isnan(value):
        return ""
    value /= unit
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
