"""The week's checklist, read from results: what is done, with its evidence, and what does the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.analysis.decision.page import decided
from common.analysis.learning.configuration import documented
from common.analysis.learning.cost import noted, priceable
from common.analysis.learning.evidence import Evidence, Finding, Measured, Shown
from common.analysis.learning.self_test import answered
from common.analysis.learning.shown import (
    shows_comparison,
    shows_concurrency,
    shows_devices,
    shows_mixed_load,
    shows_plans,
    shows_scaling,
    shows_verification,
)
from common.core.plural import plural
from common.store.schema import Result

State = Literal["done", "not yet", "not possible here"]
DONE: State = "done"
OPEN: State = "not yet"
IMPOSSIBLE: State = "not possible here"

EVENING = "run_distributed_benchmark"
VERIFYING = ("test_tensor_parallel", EVENING)
CONCURRENT = ("simulate_concurrent_requests", EVENING)
MIXED = ("test_mixed_workload", EVENING)
SCALING = ("benchmark_scaling", EVENING)
LOSS = ("explain_loss",)
PLANS = ("compare_parallel_plans",)
DECIDING = ("simulate_concurrent_requests", "compare_parallel_plans", "benchmark_scaling", EVENING)
ANY = tuple(dict.fromkeys((*VERIFYING, *CONCURRENT, *MIXED, *SCALING, *LOSS, *PLANS)))
MEASURE = "python week5/benchmark_scaling.py --tp 1 2 --usd-per-hour 0.05"
CHECKLIST = "python week5/checklist.py"
DECIDE = "python week5/decide.py --rate 20 --slo ttft=1000 tpot=100"
GUIDE = "week5/README.md"

Assess = Callable[[Result], Shown]
"""What a complete result shows of an item."""
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


Find = Callable[[Evidence, Path], Finding]
"""Looks, in what was measured and in the results folder, for what shows an item."""


def _measured(experiments: tuple[str, ...], assess: Assess) -> Find:
    """The newest result of these experiments that shows it."""
    return lambda evidence, _: evidence.find(experiments, assess)


def _written(experiments: tuple[str, ...], answer: Answer) -> Find:
    """Something written from what these experiments measured."""

    def find(evidence: Evidence, results: Path) -> Finding:
        said, path, problems = answer(evidence.complete(experiments), results)
        return Finding(path, said, problems)

    return find


@dataclass(frozen=True)
class Task:
    """Something to do, how it is seen to be done, and the command that does it."""

    name: str
    title: str
    find: Find
    command: str
    needs_two_devices: bool = True

    def item(self, evidence: Evidence, here: Here) -> Item:
        """Its line in the list."""
        found = self.find(evidence, here.results)
        state, text = _state(found, here, self.needs_two_devices)
        return Item(self.name, self.title, state, text, self.command, found.path, found.problems)


def checklist(evidence: Evidence, here: Here, shows_loss: Assess) -> list[Item]:
    """Every item of the week, in the order in which they are done.

    `shows_loss` says what a result shows of the account of a loss: it takes predictions, which a floor above has.
    """
    tasks = (
        Task("devices", "Two devices at hand", _measured(ANY, shows_devices), MEASURE),
        Task(
            "verified", "TP verified", _measured(VERIFYING, shows_verification), "python week5/test_tensor_parallel.py"
        ),
        Task(
            *("concurrency", "Concurrency tested", _measured(CONCURRENT, shows_concurrency)),
            *("python week5/simulate_concurrent_requests.py", False),
        ),
        Task(
            "mixed",
            "Mixed load tested",
            _measured(MIXED, shows_mixed_load),
            "python week5/test_mixed_workload.py",
            False,
        ),
        Task("scaling", "Scaling measured", _measured(SCALING, shows_scaling), MEASURE),
        Task("compared", "One device against several", _measured(SCALING, shows_comparison), MEASURE),
        Task("loss", "Loss accounted for", _measured(LOSS, shows_loss), "python week5/explain_loss.py"),
        Task("plans", "Plans compared", _measured(PLANS, shows_plans), "python week5/compare_parallel_plans.py"),
        Task("understood", "Efficiency and overhead understood", _written(SCALING, answered), f"{CHECKLIST} --answers"),
        Task(
            *("configuration", "Best configuration documented", _written(SCALING, documented)),
            f"{CHECKLIST} --write-configuration",
        ),
        Task("decided", "Devices for a rate decided", _written(DECIDING, decided), DECIDE, False),
        Task("cost", "Cost noted", _written(ANY, noted), _command_of_cost(evidence), False),
    )
    return [*(task.item(evidence, here) for task in tasks), _terminated(here)]


def _command_of_cost(evidence: Evidence) -> str:
    """What was measured needs a price and no further measurement."""
    return f"{CHECKLIST} --usd-per-hour 0.05" if priceable(evidence.complete(ANY)) else MEASURE


def _state(found: Finding, here: Here, needs_two_devices: bool) -> tuple[State, str]:
    if found.path is not None:
        return DONE, found.figure
    if needs_two_devices and here.devices is not None and here.devices < 2:
        return IMPOSSIBLE, f"{plural(here.devices, 'device')} here; more: {GUIDE}#ways-to-get-devices"
    return OPEN, found.figure or ("see below" if found.problems else "no result yet")


def _terminated(here: Here) -> Item:
    """Every machine that the lab rented has a proof that it is gone, or it is not done."""
    title, command = "Machine terminated", f"see {GUIDE}#cost-and-teardown"
    rented = sorted(path for path in (here.results / "cloud").glob("*") if path.is_dir())
    problems = [line for folder in rented if (line := _not_gone(folder))]
    if problems or here.rented:
        text = "see below" if problems else "this machine is rented: it is gone when you read this elsewhere"
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
