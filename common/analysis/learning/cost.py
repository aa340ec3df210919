"""What a learner's results cost: the price that they were measured with, or one that was noted afterwards."""

from __future__ import annotations

import json
from pathlib import Path

from common.analysis.learning.evidence import UNREADABLE, Measured
from common.analysis.scaling.rows import by_model, scaling_rows
from common.core.capacity import usd_per_million_tokens
from common.store.schema import Result

MOST_USD_PER_HOUR = 1e6


def price_file(results: Path) -> Path:
    """Where the price is kept that was noted after the measurement."""
    return results / "checklist" / "price.json"


def priceable(measured: Measured) -> list[tuple[Path, Result]]:
    """The results whose tokens have a cost, newest first: those with a throughput that counts in the scaling table."""
    return [(path, result) for path, result in measured if _has_rates(result)]


def note_price(measured: Measured, results: Path, usd_per_hour: float) -> str:
    """Keep the price of the machine of the newest result that one can be put on; what that makes it cost.

    Raises:
        ValueError: there is no such result.
        OSError: the file cannot be written.
    """
    found = priceable(measured)
    if not found:
        raise ValueError("no complete result has tokens per second to put a price on: run week5/benchmark_scaling.py")
    path, result = found[0]
    price_file(results).parent.mkdir(parents=True, exist_ok=True)
    note = json.dumps({"result": _place(path, results), "usd_per_hour": usd_per_hour}, indent=1)
    price_file(results).write_text(f"{note}\n", encoding="utf-8")
    return f"{_figure(result, usd_per_hour)} ({path.name})"


def noted(measured: Measured, results: Path) -> tuple[str, Path | None, list[str]]:
    """What the newest result with a price costs, its file, and what is wrong with a price that was noted."""
    name, usd_per_hour, problems = _noted_price(measured, results)
    for path, result in measured:
        if _place(path, results) == name and usd_per_hour is not None:
            return f"{_figure(result, usd_per_hour)} (noted afterwards)", path, problems
        try:
            if "usd_per_hour" in result.cost and _is_measured(result):
                return _figure(result, result.cost["usd_per_hour"]), path, problems
        except UNREADABLE:
            continue
    said = "" if problems else "no result has a price yet" if priceable(measured) else "no result yet"
    return said, None, problems


def _noted_price(measured: Measured, results: Path) -> tuple[str, float | None, list[str]]:
    """The result that a price was noted for, the price, and what is wrong with the note."""
    try:
        note = json.loads(price_file(results).read_text(encoding="utf-8"))
        name, usd_per_hour = str(note["result"]), float(note["usd_per_hour"])
    except FileNotFoundError:
        return "", None, []
    except (OSError, RecursionError, *UNREADABLE):
        return "", None, [f"{price_file(results).name} cannot be read; note the price again"]
    if not 0 < usd_per_hour < MOST_USD_PER_HOUR:
        return "", None, [f"{price_file(results).name} holds no price; note it again"]
    if name not in (_place(path, results) for path, _ in priceable(measured)):
        return "", None, ["the price was noted for a result that is gone or not complete; note it again"]
    return name, usd_per_hour, []


def _place(path: Path, results: Path) -> str:
    return path.relative_to(results).as_posix()


def _figure(result: Result, usd_per_hour: float) -> str:
    """The price, and the cheapest plan's million output tokens at it."""
    rates = _rates(result)
    price = f"${usd_per_hour:.2f} per hour"
    if not rates:
        return price
    rate, plan = max(rates)
    usd = usd_per_million_tokens(usd_per_hour, rate)
    return f"{price}: ${usd:.{2 if usd >= 1 else 3}f} per million output tokens with {plan}"


def _rates(result: Result) -> list[tuple[float, str]]:
    """Tokens per second with their plan, of the run's own model: another model's tokens have another price."""
    rows = scaling_rows(by_model(result)[0])
    return [
        (row.throughput.value, str(row.case.plan))
        for row in rows
        if row.throughput is not None and not row.case.is_invalid
    ]


def _has_rates(result: Result) -> bool:
    try:
        return bool(_rates(result))
    except UNREADABLE:
        return False


def _is_measured(result: Result) -> bool:
    return any(case.status == "ok" and case.repeats and not case.is_invalid for case in result.cases)
