"""The page: one Markdown file and one HTML file with the same words and figures."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.analysis.concurrency.rows import GOOD_ENOUGH
from common.analysis.decision.answer import Carried, Decision
from common.analysis.decision.changes import changes
from common.analysis.decision.figures import drawings
from common.analysis.decision.reading import (
    PREDICTED,
    answer_lines,
    dollars,
    doubts,
    headline,
    left_out_lines,
    limits_words,
    number,
    side_by_side,
    within_words,
)
from common.analysis.learning.evidence import Measured
from common.analysis.page import as_page, joined, listed, pictures, table
from common.analysis.scaling.figures import DPI
from common.analysis.wording import interval
from common.core.capacity import Need, need

FOLDER, MARKDOWN, HTML = "decision", "decision.md", "decision.html"
FROM = "From: "  # begins the line that names the results behind the page


@dataclass(frozen=True)
class Page:
    """A decision with what stands around it: where it comes from, what was left out, what to measure, what to doubt.

    `dropped` are sentences on plans that were measured and do not count at all.
    """

    decision: Decision
    source: str
    files: Sequence[str]
    left_out: Sequence[str]
    next_step: Sequence[str]
    caveats: Sequence[str] = ()
    dropped: Sequence[str] = ()


def write_page(page: Page, results: Path) -> list[Path]:
    """Write `decision/<UTC>/` with `decision.html`, `decision.md` and the figures; the paths, the page first.

    Earlier pages stay: what changed between two of them is often the question.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = _new_folder(results / FOLDER)
    drawn = drawings(page.decision)
    figures = [folder / f"{name}.png" for name in drawn]
    for path, draw in zip(figures, drawn.values(), strict=True):
        draw(page.decision, page.source).savefig(path, dpi=DPI)
    text = markdown(page, list(drawn))
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    (folder / HTML).write_text(as_page(text, folder, headline(page.decision)), encoding="utf-8")
    return [folder / HTML, folder / MARKDOWN, *figures]


def _new_folder(parent: Path) -> Path:
    """A folder named after the time, as results are."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for count in itertools.count(1):
        folder = parent / (moment if count == 1 else f"{moment}-{count}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


def decided(measured: Measured, results: Path) -> tuple[str, Path | None, list[str]]:
    """What the newest page says first that rests on results that are there, the page, and what is wrong with newer."""
    wrong: dict[str, list[str]] = {}
    pages = sorted((results / FOLDER).glob(f"*/{MARKDOWN}"), key=lambda path: path.parent.name, reverse=True)
    for path in pages:
        first, problem = _rests(path, measured)
        if first:
            return first, path, _in_words(wrong)
        wrong.setdefault(problem, []).append(f"{path.parent.name}/{MARKDOWN}")
    return "" if pages else "not decided yet", None, _in_words(wrong)


def _in_words(wrong: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for all pages with the same problem: the newest is named."""
    return [
        f"{pages[0]} {problem}{f' (and {len(pages) - 1} older)' if len(pages) > 1 else ''}; decide again"
        for problem, pages in wrong.items()
    ]


def _rests(path: Path, measured: Measured) -> tuple[str, str]:
    """What a page says first, or why it does not count."""
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError):
        return "", "cannot be read"
    behind = next((line for line in reversed(lines) if line.startswith(FROM)), "")
    files = set(re.findall(r"`([^`]+)`", behind))
    if not first.startswith("# ") or not files:
        return "", "rests on no result of yours (predictions alone?), or is cut off"
    if not files <= {path.name for path, _ in measured}:
        return "", "rests on a result that is not yours, gone or not complete"
    return first.removeprefix("# "), ""


def summary(decision: Decision) -> dict[str, Any]:
    """For the last line: what is chosen, and what every kind of engine carries and takes."""
    question, chosen = decision.question, decision.chosen
    found: dict[str, Any] = {"rate": question.rate, "limits_ms": dict(question.limits_ms), "engines": {}}
    for capacity in decision.capacities:
        taken = need(capacity, question.rate, question.machine_devices)
        numbers = {"carried": capacity.rate(1), "engines": taken.engines, "spares": taken.spares}
        numbers |= {"devices": taken.devices, "machines": taken.machines}
        found["engines"][str(capacity.engine)] = numbers | {"predicted": capacity.predicted} | _usd(decision, taken)
    return found | {"chosen": None if chosen is None else str(chosen.capacity.engine)}


def _usd(decision: Decision, taken: Need) -> dict[str, float]:
    prices = decision.question.prices
    each = {"rented_usd_per_month": prices.rented_usd, "bought_usd_per_month": prices.bought_usd}
    return {name: round(usd * taken.machines, 2) for name, usd in each.items() if usd is not None}


def markdown(page: Page, drawn: Sequence[str]) -> str:
    """The page's text; `drawn` are the figures that lie beside it."""
    decision = page.decision
    limits, share = limits_words(decision.question.limits_ms), f"{GOOD_ENOUGH:.0%}"
    parts = [f"# {headline(decision)}"]
    parts += [f"A request is {decision.work}; {share} of requests or more must keep {limits}. {page.source}."]
    parts += [
        "## The answer",
        listed([*answer_lines(decision), *page.dropped]),
        pictures(name for name in drawn if name == "cost"),
    ]
    parts += ["## What the rate takes", table(needs_shown(decision)), listed(side_by_side(decision))]
    if decision.plans:
        parts += ["## What was measured", table(measured_shown(decision))]
        parts += [pictures(name for name in drawn if name == "within")]
    if decision.foretold:
        parts += [f"## {PREDICTED}, not measured", table(foretold_shown(decision))]
    parts += ["## What would change the answer", listed(changes(decision))]
    parts += ["## What to doubt", listed([*doubts(decision), *page.caveats, *left_out_lines(page.left_out)])]
    parts += [f"## {'Measure next' if decision.loads else 'Measure first'}", *page.next_step]
    parts += [f"{FROM}{', '.join(f'`{name}`' for name in page.files)}." if page.files else ""]
    return joined(parts)


def needs_shown(decision: Decision) -> pd.DataFrame:
    """What the rate takes of every kind of engine, the least first, the spare included."""
    question, prices = decision.question, decision.question.prices
    taken = sorted((need(one, question.rate, question.machine_devices) for one in decision.capacities), key=_rank)
    columns = ["engine", "", "engines", "devices", "machines"]
    columns += ["rented, $ a month", "devices used, $"] if prices.rented_usd is not None else []
    columns += ["bought, $ a month"] if prices.bought_usd is not None else []
    rows = []
    for one in taken:
        row = [str(one.capacity.engine), PREDICTED if one.capacity.predicted else "measured"]
        row += [f"{one.engines} + {one.spares}", str(one.devices), str(one.machines)]
        if prices.rented_usd is not None:
            used = one.devices / (one.machines * question.machine_devices)
            row += [dollars(prices.rented_usd * one.machines), dollars(prices.rented_usd * one.machines * used)]
        row += [dollars(prices.bought_usd * one.machines)] if prices.bought_usd is not None else []
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def measured_shown(decision: Decision) -> pd.DataFrame:
    """The largest measured rate within the limits of every plan, and the load that was not."""
    columns = ["plan", "devices", "load", "requests/s", "counted on", "within limits", "first load not within"]
    return pd.DataFrame([_measured(one, decision) for one in decision.plans], columns=columns)


def foretold_shown(decision: Decision) -> pd.DataFrame:
    """What plans that were not measured are predicted to carry, every figure with the load that it is for."""
    columns = ["plan", "devices", "clients", "requests/s of these clients", "counted on, 1/s"]
    columns += ["mean TTFT ms of 1 client", "mean TPOT ms of these clients at the rate counted on"]
    rows = []
    for one in decision.foretold:
        low = one.rate.value if one.rate.low is None else one.rate.low
        row = [f"{one.plan} ({PREDICTED})", str(one.plan.devices), str(one.clients), interval(one.rate, 1), number(low)]
        rows.append([*row, number(one.ttft_ms), number(one.tpot_ms)])
    return pd.DataFrame(rows, columns=columns)


def _rank(one: Need) -> tuple[bool, tuple[int, int, int, float, str]]:
    return one.capacity.predicted, one.rank


def _measured(one: Carried, decision: Decision) -> list[str]:
    limits, begin = decision.question.limits_ms, [str(one.plan), str(one.plan.devices)]
    failed = ""
    if one.failed is not None:
        failed = f"{one.failed.words}: {within_words(one.failed, limits)}"
    if one.best is None:
        return [*begin, "none tried", "", "", "", failed]
    best = one.best
    return [
        *begin,
        best.words,
        interval(best.rate, 1),
        number(best.sized),
        within_words(best, limits),
        failed or "none",
    ]
