"""The week's checklist, read from results: what is done, with its evidence, and what does the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.analysis.concurrency.rows import who
from common.analysis.frames import usd_per_million
from common.analysis.learning.configuration import documented
from common.analysis.learning.evidence import Evidence, Finding, Measured, Shown
from common.analysis.learning.self_test import answered
from common.analysis.scaling.reading import interval, machine, streams
from common.analysis.scaling.rows import ScalingRow, is_invalid, samples, scaling_rows
from common.core.arrivals import ClosedLoop
from common.core.knee import FEWEST_POINTS
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.core.stats import ratio
from common.store.schema import Case, Result

State = Literal["done", "not yet", "not possible here"]
DONE: State = "done"
OPEN: State = "not yet"
IMPOSSIBLE: State = "not possible here"

EVENING = "run_distributed_benchmark"
VERIFYING = ("test_tensor_parallel", EVENING)
CONCURRENT = ("simulate_concurrent_requests", EVENING)
SCALING = ("benchmark_scaling", EVENING)
ANY = (*VERIFYING, *CONCURRENT, *SCALING, "test_mixed_workload")
MEASURE = "python week5/benchmark_scaling.py --tp 1 2 --usd-per-hour 0.05"
GUIDE = "week5/README.md"

Answer = Callable[[Measured, Path], tuple[str, Path | None, list[str]]]
"""Of complete results and the results folder: what to say, the file where all is right, what is wrong with it."""


@dataclass(frozen=True)
class Item:
    """One line of the list; `file` is the result that shows it, `problems` name files that do not and why."""

    name: str
    title: str
    state: State
    evidence: str
    command: str
    file: Path | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Here:
    """Where the list is read; `devices` is None where they cannot be counted."""

    results: Path
    devices: int | None
    rented: bool = False


@dataclass(frozen=True)
class Task:
    """Something to measure, how a result is seen to do it, and the command that does."""

    name: str
    title: str
    experiments: tuple[str, ...]
    assess: Callable[[Result], Shown]
    command: str
    needs_two_devices: bool = True

    def item(self, evidence: Evidence, here: Here) -> Item:
        """Its line in the list."""
        found = evidence.find(self.experiments, self.assess)
        state, text = _state(found, here, self.needs_two_devices)
        return Item(self.name, self.title, state, text, self.command, found.path, found.problems)


def checklist(evidence: Evidence, here: Here) -> list[Item]:
    """Every item of the week, in the order in which they are done."""
    measured = [task.item(evidence, here) for task in TASKS]
    written = [
        _written(("understood", "Efficiency and overhead understood", "--answers"), answered, evidence, here),
        _written(
            ("configuration", "Best configuration documented", "--write-configuration"), documented, evidence, here
        ),
    ]
    return [*measured[:-1], *written, measured[-1], _terminated(here)]


def verified_plans(result: Result) -> list[ParallelPlan]:
    """Plans that split the model over several devices, and whose cases all passed all their checks."""
    plans = dict.fromkeys(case.plan for case in result.cases if case.plan.tp > 1 and case.status != "skipped")
    return [plan for plan in plans if _passed([case for case in result.cases if case.plan == plan])]


def _passed(cases: list[Case]) -> bool:
    checks = [check.passed for case in cases for check in case.checks]
    return all(case.status == "ok" for case in cases) and bool(checks) and all(checks)


def _shows_devices(result: Result) -> Shown:
    count = len(result.environment.get("devices", []))
    return Shown(machine(result)) if count > 1 else Shown(missing=f"measured on {plural(count, 'device')}")


def _shows_verification(result: Result) -> Shown:
    plans = verified_plans(result)
    if plans:
        return Shown(", ".join(f"{plan} passed" for plan in plans))
    failed = [
        f"{case.id}: {check.name}: {check.detail}"
        for case in result.cases
        for check in case.checks
        if case.plan.tp > 1 and check.passed is False
    ]
    return Shown(missing=f"no plan over several devices passed{f' ({failed[0]})' if failed else ''}")


def _shows_concurrency(result: Result) -> Shown:
    best: dict[str, dict[int, float]] = {}
    for case in result.cases:
        rates = samples(case, "output_throughput")
        if case.status != "ok" or not isinstance(case.arrivals, ClosedLoop) or is_invalid(case):
            continue
        if max(rates, default=0.0) > 0:  # where every request failed no token came
            best.setdefault(who(case), {})[case.arrivals.concurrency] = max(rates)
    for name, rates_at in best.items():
        if len(rates_at) >= FEWEST_POINTS:
            most = max(rates_at, key=lambda count: rates_at[count])
            return Shown(
                f"{name}: {min(rates_at)} to {streams(max(rates_at))}, most {rates_at[most]:.0f} tok/s at {most}"
            )
    return Shown(missing=f"nothing was measured at {FEWEST_POINTS} concurrencies, which a knee takes")


def _shows_scaling(result: Result) -> Shown:
    rows = _split_rows(result)
    curves = {row.curve for row in rows}
    if len(curves) < 2:
        only = f"only the {curves.pop()} curve was" if curves else "no plan over several devices was"
        return Shown(missing=f"{only} measured")
    row = max((row for row in rows if row.curve != "weak"), key=_gain, default=rows[0])
    assert row.speedup is not None and row.efficiency is not None
    return Shown(f"{row.case.plan} {interval(row.speedup)}x, {row.efficiency.value:.0%} of each device ({row.curve})")


def _shows_comparison(result: Result) -> Shown:
    rows = scaling_rows(result)
    for row in sorted(_split_rows(result), key=_gain, reverse=True):
        base = next((one for one in rows if one.is_base and (one.curve, one.load) == (row.curve, row.load)), None)
        if row.curve != "fixed" or base is None or base.case.plan.devices > 1:
            continue
        waits = [samples(one.case, "median_ttft_ms") for one in (row, base)]
        wait = f", {ratio('', 'x', *waits).value:.2f}x the wait" if all(waits) else ""
        assert row.speedup is not None
        return Shown(
            f"{row.case.plan} against {base.case.plan} at {streams(row.load)}: {interval(row.speedup)}x the tokens"
            f"{wait}{', unresolved' if row.unresolved else ''}"
        )
    return Shown(missing="no single device stands beside several at the same load")


def _shows_cost(result: Result) -> Shown:
    price = result.cost.get("usd_per_hour")
    if price is None:
        return Shown(missing="no price (--usd-per-hour)")
    found = [(usd_per_million(row, result), str(row.case.plan)) for row in scaling_rows(result) if row.throughput]
    known = [(usd, plan) for usd, plan in found if usd is not None]
    cheapest = f": ${min(known)[0]:.2f} per million output tokens with {min(known)[1]}" if known else ""
    return Shown(f"${price:.2f} per hour{cheapest}") if _is_measured(result) else Shown(missing="nothing was measured")


def _is_measured(result: Result) -> bool:
    return any(case.status == "ok" and case.repeats for case in result.cases)


def _split_rows(result: Result) -> list[ScalingRow]:
    rows = [row for row in scaling_rows(result) if row.speedup is not None and row.efficiency is not None]
    return [row for row in rows if row.case.plan.tp > 1 and row.case.plan.devices > 1]


def _gain(row: ScalingRow) -> float:
    return row.speedup.value if row.speedup else 0.0


TASKS = (
    Task("devices", "Two devices at hand", ANY, _shows_devices, MEASURE),
    Task("verified", "TP verified", VERIFYING, _shows_verification, "python week5/test_tensor_parallel.py"),
    Task(
        *("concurrency", "Concurrency tested", CONCURRENT, _shows_concurrency),
        *("python week5/simulate_concurrent_requests.py", False),
    ),
    Task("scaling", "Scaling measured", SCALING, _shows_scaling, MEASURE),
    Task("compared", "One device against several", SCALING, _shows_comparison, MEASURE),
    Task("cost", "Cost noted", ANY, _shows_cost, MEASURE, False),
)


def _state(found: Finding, here: Here, needs_two_devices: bool) -> tuple[State, str]:
    if found.path is not None:
        return DONE, found.figure
    if needs_two_devices and here.devices is not None and here.devices < 2:
        return IMPOSSIBLE, f"{plural(here.devices, 'device')} here; more: {GUIDE}#ways-to-get-devices"
    return OPEN, found.figure if found.figure or found.problems else "no result yet"


def _written(item: tuple[str, str, str], answer: Answer, evidence: Evidence, here: Here) -> Item:
    """An item that the learner writes: its name, title and the checklist's own option that does it."""
    name, title, option = item
    said, path, problems = answer(evidence.complete(SCALING), here.results)
    state, text = _state(Finding(path, said, problems), here, needs_two_devices=True)
    return Item(name, title, state, text, f"python week5/checklist.py {option}", path, problems)


def _terminated(here: Here) -> Item:
    """Every machine that the lab rented has a proof that it is gone, or it is not done."""
    title, command = "Machine terminated", f"see {GUIDE}#cost-and-teardown"
    rented = sorted(path for path in (here.results / "cloud").glob("*") if path.is_dir())
    problems = [line for folder in rented if (line := _not_gone(folder))]
    if problems or here.rented:
        text = "" if problems else "this machine is rented: it is gone when you read this elsewhere"
        return Item("terminated", title, OPEN, text, command, None, problems)
    if not rented:
        return Item("terminated", title, IMPOSSIBLE, "the lab has rented no machine", command)
    gone = f"{plural(len(rented), 'machine')}, each proven gone"
    return Item("terminated", title, DONE, gone, command, rented[-1] / "teardown.json")


def _not_gone(folder: Path) -> str | None:
    """What is missing in the proof that a rented machine is gone; None where nothing is."""
    try:
        receipt = json.loads((folder / "teardown.json").read_text(encoding="utf-8"))
    except OSError:
        return f"cloud/{folder.name} has no teardown.json: nothing proves that it is gone"
    except (ValueError, RecursionError):
        return f"cloud/{folder.name}/teardown.json is truncated or not JSON: nothing proves that it is gone"
    if not isinstance(receipt, dict) or receipt.get("verified") is not True:
        return f"cloud/{folder.name}/teardown.json does not say that it was verified"
    return None
