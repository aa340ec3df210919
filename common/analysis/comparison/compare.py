"""`compare`: two results of one experiment, refused unless they differ only in what they are meant to differ in."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.analysis.comparison.compared import METRICS, STEADY, ComparedCase, compared_cases, coverage
from common.analysis.comparison.differences import Difference, Named, differences
from common.analysis.frames import load_sound
from common.analysis.scaling.reading import but_for_numbers
from common.analysis.scaling.table import empty_table, plain, stdout
from common.analysis.wording import about
from common.core.arrivals import ClosedLoop
from common.core.stats import Estimate
from common.store.files import StoreError

HEADINGS = dict(zip(METRICS, ("tok/s\nB/A", "TTFT\nB/A", "TPOT\nB/A"), strict=True))
DOUBTFUL = "?"
ONE_RUN = ["A and B are one and the same run: every ratio is 1 by construction.", ""]


class RefusedError(ValueError):
    """The runs differ in something that was not named; the message is one line with the remedy."""


def compare_files(a: Path, b: Path, factors: Sequence[Named], console: Console | None = None) -> None:
    """Print the differences, and the ratios B/A where every difference is allowed; the last line is JSON.

    Raises:
        StoreError: a file cannot be read, or the two have nothing in common.
        RefusedError: they differ in a factor that is not among `factors`.
    """
    console = console or stdout()
    left, right = load_sound(a), load_sound(b)
    if left.experiment != right.experiment:
        raise StoreError(f"{a} is of {left.experiment}, {b} of {right.experiment}: compare two of one experiment")
    found = differences(left, right)
    compared = compared_cases(left, right)
    if not compared:
        raise StoreError(f"{a} and {b} have no case in common; measure the same plans and curves")
    console.print("Compare  B / A", style="bold")
    _say(console, [f"A: {about(left)} ({a})", f"B: {about(right)} ({b})", ""])
    itself = left.run_id == right.run_id and left.cases == right.cases and not found
    _say(console, ONE_RUN if itself else _listed(found, factors))
    refused = list(dict.fromkeys(one.factor for one in found if not one.allowed(factors)))
    if not refused:
        _print_ratios(console, compared, [] if itself else coverage(compared, found))
    document = _document((a, b), factors, found, [] if refused else compared)
    sys.stdout.write(json.dumps(document, default=str) + "\n")
    sys.stdout.flush()
    if refused:
        raise RefusedError(_remedy(refused, factors))
    if not any(case.ratios for case in compared):
        raise StoreError("no case was measured in both: nothing could be compared")


def _listed(found: Sequence[Difference], factors: Sequence[str]) -> list[str]:
    if all(one.only_shown for one in found):
        lines = ["No difference: the same machine as far as is recorded, the same settings. This is a repeat."]
    else:
        lines = [f"Differences (named: {', '.join(factors) or 'none'}):"]
    return [*lines, *(_line(one, factors) for one in found), ""]


def _line(one: Difference, factors: Sequence[str]) -> str:
    word = "shown only" if one.only_shown else "allowed" if one.allowed(factors) else "NOT ALLOWED"
    if one.name.startswith("cases only in"):
        return f"- {one.factor}, {word}: {one.name}: {_some(one.a or one.b)}"
    where = f" ({_some(one.cases)})" if one.cases else ""
    absent = "default" if one.name.startswith("option ") else "unknown"
    return f"- {one.factor}, {word}: {one.name}: {_shown(one.a, absent)} -> {_shown(one.b, absent)}{where}"


def _remedy(refused: Sequence[str], factors: Sequence[str]) -> str:
    fixed = [factor for factor in refused if factor in ("workload", "method")]
    what = f"the runs differ in {' and '.join(refused)}, which {'is' if len(refused) == 1 else 'are'} not named"
    if fixed:
        alike = "the same options" if "workload" in fixed else "the same version of the lab"
        return f"{what}; {' and '.join(fixed)} must be alike: measure one of them again with {alike}"
    named = " ".join(dict.fromkeys([*factors, *refused]))
    return f"{what}; if that is meant, --factor {named}; else make the runs alike"


def _print_ratios(console: Console, compared: Sequence[ComparedCase], covered: Sequence[str]) -> None:
    shown = [case for case in compared if case.ratios]
    if shown:
        console.print(_table(shown))
        console.print("[ ] 95 % interval; unresolved: it holds 1, so A and B are not told apart", markup=False)
        console.print("tok/s above 1: B gives more. TTFT and TPOT above 1: B takes longer.")
    else:
        console.print("no case was measured in both")
    lines = [*_steady(shown), *covered, *_grouped("not compared", [(case.id, case.why_not) for case in compared])]
    lines += _alike(f"{DOUBTFUL} doubtful", [(case.id, doubt) for case in shown for doubt in case.doubts])
    console.print()
    _say(console, [f"- {line}" for line in lines])


def _table(shown: Sequence[ComparedCase]) -> Table:
    table = empty_table()
    table.add_column("case", no_wrap=True)
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right")
    for case in shown:
        cells = [_cell(case.ratio_of(metric)) for metric in METRICS]
        mark = f" {DOUBTFUL}" if case.doubts else ""
        table.add_row(Text(f"{plain(case.id)}{mark}{_loads(case)}"), *cells)
    return table


def _cell(estimate: Estimate | None) -> Text:
    if estimate is None:
        return Text("")
    if estimate.low is None or estimate.high is None:
        return Text(f"{_times(estimate.value)}\nno interval")
    text = f"{_times(estimate.value)} [{_times(estimate.low)}, {_times(estimate.high)}]"
    return Text(f"{text}\nunresolved" if estimate.unresolved else text)


def _times(value: float) -> str:
    """Two decimals near 1, else three digits."""
    return f"{value:.2f}" if 0.1 <= value < 10 else f"{value:.3g}"


def _loads(case: ComparedCase) -> str:
    """A saturated case stands at the load that each side found."""
    a, b = case.a.arrivals, case.b.arrivals
    if isinstance(a, ClosedLoop) and isinstance(b, ClosedLoop) and a != b:
        return f"\n  at {a.concurrency} and {b.concurrency} streams"
    return ""


def _steady(shown: Sequence[ComparedCase]) -> list[str]:
    steady = [case for case in shown if any(metric.startswith(STEADY) for metric in case.ratios)]
    if not steady:
        return []
    if len(steady) == len(shown) and all(metric.startswith(STEADY) for case in shown for metric in case.ratios):
        return ["Over the steady window, which both sides have in every repeat."]
    used = {case.id: [name.removeprefix(STEADY) for name in case.ratios if name.startswith(STEADY)] for case in steady}
    return _grouped("over the steady window", [(id, ", ".join(names)) for id, names in used.items()])


def _grouped(title: str, reasons: Sequence[tuple[str, str]]) -> list[str]:
    """One line for each reason, with all the cases it is of."""
    groups: dict[str, list[str]] = {}
    for id, reason in reasons:
        if reason:
            groups.setdefault(reason, []).append(id)
    return [f"{title}: {', '.join(ids)}: {reason}" for reason, ids in groups.items()]


def _alike(title: str, reasons: Sequence[tuple[str, str]]) -> list[str]:
    """One line for all reasons that differ in their numbers alone: the cases, and the numbers of the first."""
    words = but_for_numbers([reason for _, reason in reasons])
    return _grouped(title, [(id, said) for (id, _), said in zip(reasons, words, strict=True)])


def _document(
    paths: tuple[Path, Path], factors: Sequence[str], found: Sequence[Difference], compared: Sequence[ComparedCase]
) -> dict[str, Any]:
    ratios = {case.id: {name: _numbers(one) for name, one in case.ratios.items()} for case in compared}
    return {
        "a": str(paths[0].absolute()),
        "b": str(paths[1].absolute()),
        "factors": list(factors),
        "differences": [
            {
                "factor": one.factor,
                "name": one.name,
                "a": one.a,
                "b": one.b,
                "cases": list(one.cases),
                "only_shown": one.only_shown,
                "allowed": one.allowed(factors),
            }
            for one in found
        ],
        "ratios": {id: numbers for id, numbers in ratios.items() if numbers},
    }


def _numbers(estimate: Estimate) -> dict[str, float | int | bool]:
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    rounded = {name: float(f"{value:.6g}") for name, value in numbers.items() if value is not None}
    return rounded | {"n": estimate.n, "resolved": not estimate.unresolved}


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def _shown(value: object, absent: str) -> str:
    """A value in a line: what is absent in words, lists of equal things once, nothing longer than a line."""
    if isinstance(value, list) and value and all(one == value[0] for one in value):
        alike, times = value[0], len(value)
        return _shown(alike, absent) if alike is None or times == 1 else f"{times} x {_shown(alike, absent)}"
    if value is None:
        return absent
    if value == []:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return plain(text if len(text) <= 90 else f"{text[:87]}...")


def _say(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(plain(line), soft_wrap=not console.is_terminal, markup=False)  # whole lines for grep
