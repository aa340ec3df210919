"""The evening's run read as a whole: every experiment's table, then the plans side by side and the cheapest one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console

from common.analysis.concurrency.reading import read_concurrency
from common.analysis.concurrency.rows import ConcurrencyRow, concurrency_rows, most_within_limits, slo_of
from common.analysis.concurrency.table import print_concurrency
from common.analysis.fairness.reading import mixes
from common.analysis.fairness.table import print_fairness
from common.analysis.scaling.reading import read_scaling
from common.analysis.scaling.rows import kv_cache_tokens, samples, scaling_rows, typical
from common.analysis.scaling.table import framed, print_scaling, stdout
from common.analysis.verification.judgement import plan_findings, verified
from common.analysis.verification.table import print_verification, read_verification
from common.analysis.wording import interval
from common.core.capacity import usd_per_million_tokens
from common.core.plan import ParallelPlan
from common.core.stats import Estimate, geometric_mean
from common.store.schema import Case, Result

LATENCY, SEQUENCES = "latency-", "max_num_seqs-"


@dataclass(frozen=True)
class PlanRow:
    """One plan as the evening saw it; absent is what was not measured, or no price known."""

    plan: ParallelPlan
    throughput: Estimate | None  # output tokens per second where it earns most
    load: float | None  # requests in flight there
    usd_per_million: float | None  # dollars per million output tokens there, whole machine
    within_limits: ConcurrencyRow | None  # the largest load at which the limits are kept
    usd_within_limits: float | None
    kv_tokens: int | None
    startup_s: float | None


def plan_rows(result: Result) -> list[PlanRow]:
    """Plans that were measured under load, the smallest first."""
    plans = sorted({case.plan for case in result.cases if case.repeats}, key=lambda plan: (plan.devices, plan))
    return [_plan_row(plan, result) for plan in plans]


def _plan_row(plan: ParallelPlan, result: Result) -> PlanRow:
    measured = [row for row in scaling_rows(result) if row.throughput is not None and not row.case.is_invalid]
    own = [row for row in measured if row.case.plan == plan]
    best = max(own, key=lambda row: row.throughput.value if row.throughput else 0.0, default=None)
    closed = [row for row in concurrency_rows(result, "closed") if row.case.plan == plan]
    kept = most_within_limits([row for row in closed if not row.case.is_invalid])
    started = [case for case in result.cases if case.plan == plan and case.engine]
    return PlanRow(
        plan,
        best.throughput if best else None,
        best.load if best else None,
        _usd(best.throughput if best else None, result),
        kept,
        _usd(kept.throughput if kept else None, result),
        kv_cache_tokens(started[0]) if started else None,
        float(started[0].engine["startup_s"]) if started else None,
    )


def _usd(throughput: Estimate | None, result: Result) -> float | None:
    usd_per_hour = result.cost.get("usd_per_hour")
    if throughput is None or usd_per_hour is None:
        return None
    return usd_per_million_tokens(usd_per_hour, throughput.value)


def cheapest(rows: Iterable[PlanRow]) -> PlanRow | None:
    """The plan with the cheapest tokens among those that keep the limits; without a price, the one with most tokens.

    The price is the whole machine's, so more tokens per second are always cheaper tokens: what the plan leaves idle
    is paid all the same.
    """
    return max((row for row in rows if row.within_limits is not None), key=_kept_throughput, default=None)


def _kept_throughput(row: PlanRow) -> float:
    assert row.within_limits is not None
    return row.within_limits.throughput.value


def plans_shown(result: Result) -> pd.DataFrame:
    """The plans side by side, each where it earns most, as text."""
    records = []
    for row in plan_rows(result):
        records.append(
            {
                "plan": str(row.plan),
                "tok/s": _text(row.throughput),
                "streams": "" if row.load is None else f"{row.load:g}",
                "USD per M": _dollars(row.usd_per_million),
                "KV tokens": "" if row.kv_tokens is None else str(row.kv_tokens),
                "start-up s": "" if row.startup_s is None else f"{row.startup_s:.1f}",
            }
        )
    return pd.DataFrame(records)


def affordable_shown(result: Result) -> pd.DataFrame:
    """The largest load at which each plan keeps the limits, as text; plans that keep them at none are left out."""
    records = []
    for row in plan_rows(result):
        if (kept := row.within_limits) is not None:
            texts = (str(row.plan), f"{kept.load:g}", _text(kept.throughput), _dollars(row.usd_within_limits))
            records.append(dict(zip(("plan", "clients", "tok/s", "USD per M"), texts, strict=True)))
    return pd.DataFrame(records)


def latency_shown(result: Result) -> pd.DataFrame:
    """One request at a time, by lengths and plan; means of medians in milliseconds."""
    alone = [case for case in result.cases if case.curve.startswith(LATENCY) or case.id.endswith("/fixed/c1")]
    records = []
    for case in sorted((case for case in alone if case.repeats), key=_lengths):
        prompt, answer = _lengths(case)
        numbers = {name: typical(case, f"median_{name}_ms") for name in ("ttft", "tpot", "e2el")}
        shown = {f"{name.upper()} ms": "" if value is None else f"{value:.3g}" for name, value in numbers.items()}
        records.append({"plan": _named(case), "in": str(prompt), "out": str(answer)} | shown)
    return pd.DataFrame(records)


def sequences_shown(result: Result) -> pd.DataFrame:
    """The limit on sequences, under one and the same load."""
    records = []
    for case in result.cases:
        if case.curve.startswith(SEQUENCES) and case.repeats:
            rate = geometric_mean("output_throughput", "tok/s", samples(case, "output_throughput"))
            ttft_ms, tpot_ms = typical(case, "median_ttft_ms"), typical(case, "median_tpot_ms")
            records.append(
                {
                    "plan": _named(case),
                    "max_num_seqs": case.curve.removeprefix(SEQUENCES),
                    "tok/s": _text(rate),
                    "TTFT ms": "" if ttft_ms is None else f"{ttft_ms:.3g}",
                    "TPOT ms": "" if tpot_ms is None else f"{tpot_ms:.3g}",
                }
            )
    return pd.DataFrame(records)


def recommendation(result: Result) -> str:
    """One sentence: which plan serves within the limits at the least price."""
    limits = " ".join(f"{name}={limit:g}" for name, limit in sorted(slo_of(result).items()))
    found = cheapest(plan_rows(result))
    if found is None or found.within_limits is None:
        return f"No plan kept the limits ({limits}) at any load that was tried." if limits else "No limits were held."
    usd = f", ${found.usd_within_limits:.2f} per million output tokens" if found.usd_within_limits else ""
    rate = _kept_throughput(found)
    held = {case.plan for case in result.cases if case.curve == "closed" and case.repeats}
    others = sorted({case.plan for case in result.cases} - held, key=lambda plan: (plan.devices, plan))
    untried = f" Not held to them: {', '.join(map(str, others))}." if others else ""
    return (
        f"Within {limits}, {found.plan} gives most for the machine's price: {rate:.0f} tok/s with"
        f" {found.within_limits.load:g} clients{usd}.{untried}"
    )


def print_evening(result: Result, console: Console | None = None) -> None:
    """Every table that the result has something for, then the plans side by side; no sentence is said twice."""
    console = console or stdout()
    print_scaling(result, console)
    said = read_scaling(result)
    if verified(result):
        console.print()
        print_verification(result, console, said)
        said += read_verification(result)
    if concurrency_rows(result, "closed"):
        console.print()
        print_concurrency(result, console, said)
        said += read_concurrency(result)
    if mixes(result):
        console.print()
        print_fairness(result, console, said)
    for title, frame in sections(result):
        console.print()
        console.print(f"[bold]{title}[/]")
        console.print(framed(frame))
    console.print(f"- {recommendation(result)}", soft_wrap=not console.is_terminal, markup=False)


def sections(result: Result) -> list[tuple[str, pd.DataFrame]]:
    """What only the evening shows, as titles and tables; empty ones are left out."""
    found = [
        ("One request at a time", latency_shown(result)),
        ("How many sequences an engine may run at once", sequences_shown(result)),
        ("The plans side by side, each where it earns most", plans_shown(result)),
        ("The plans side by side, each within the limits", affordable_shown(result)),
    ]
    return [(title, frame) for title, frame in found if not frame.empty]


def evening_summary(result: Result) -> dict[str, Any]:
    """Per plan its best and its affordable throughput, the verdict on TP, and the recommended plan."""
    found = cheapest(plan_rows(result))
    plans = {
        str(row.plan): {
            name: round(value, 4)
            for name, value in {
                "output_throughput": row.throughput.value if row.throughput else None,
                "usd_per_million_output_tokens": row.usd_per_million,
                "output_throughput_within_limits": _kept_throughput(row) if row.within_limits else None,
            }.items()
            if value is not None
        }
        for row in plan_rows(result)
    }
    verdicts = {str(plan): finding.word for plan, finding in plan_findings(result).items()} if verified(result) else {}
    return {"plans": plans, "tensor_parallel": verdicts, "recommended": str(found.plan) if found else None}


def _named(case: Case) -> str:
    return f"{case.plan}{' INVALID' if case.is_invalid else ''}"


def _lengths(case: Case) -> tuple[int, int]:
    return case.workload.input_tokens, case.workload.output_tokens


def _text(estimate: Estimate | None) -> str:
    return "" if estimate is None else interval(estimate, 0)


def _dollars(usd: float | None) -> str:
    return "" if usd is None else f"{usd:.2f}"
