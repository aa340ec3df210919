"""How a result of any experiment is shown: its table and its figures, each where the result has something for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from common.analysis.concurrency import figures as concurrency_figures
from common.analysis.concurrency.rows import batch_rows, concurrency_rows
from common.analysis.concurrency.table import print_concurrency
from common.analysis.evening.plans import print_evening
from common.analysis.fairness import figures as fairness_figures
from common.analysis.fairness.reading import mixes
from common.analysis.fairness.table import print_fairness
from common.analysis.plans import figures as plan_figures
from common.analysis.plans.table import print_plans
from common.analysis.scaling import figures
from common.analysis.scaling.rows import by_model, scaling_rows
from common.analysis.scaling.table import print_scaling
from common.analysis.verification.table import print_verification
from common.store.schema import Result

Draw = Callable[[Result], Figure]


@dataclass(frozen=True)
class Account:
    """What a room above this one tells of a result: lines of a fixed-width table, sentences below it, and figures."""

    title: str
    table: Sequence[str]
    sentences: Sequence[str]
    figures: Mapping[str, Draw]


PRINTERS: dict[str, Callable[[Result], None]] = {
    "benchmark_scaling": print_scaling,
    "compare_parallel_plans": print_plans,
    "simulate_concurrent_requests": print_concurrency,
    "test_mixed_workload": print_fairness,
    "test_tensor_parallel": print_verification,
    "run_distributed_benchmark": print_evening,
}


def print_result(result: Result) -> None:
    """The table of the result's experiment."""
    PRINTERS.get(result.experiment, print_scaling)(result)


def drawings(result: Result) -> dict[str, Draw]:
    """Figures by name."""
    drawn: dict[str, Draw] = {name: _of_own_model(draw) for name, draw in figures.FIGURES.items()}
    drawn = drawn if scaling_rows(result) else {}
    if concurrency_rows(result, "closed"):
        drawn["concurrency"] = concurrency_figures.concurrency
    if batch_rows(result):
        drawn["batch"] = concurrency_figures.batch
    if result.experiment == "compare_parallel_plans":
        drawn |= plan_figures.FIGURES
    if mixes(result):
        drawn["mixed-load"] = fairness_figures.costs
    return drawn


def _of_own_model(draw: Draw) -> Draw:
    """The figure of the run's own model: others are not compared with it."""
    return lambda result: draw(by_model(result)[0])


def save_drawings(result: Result, folder: Path, account: Account | None = None) -> list[Path]:
    """Write every figure, the account's too, as a 1920 x 1080 PNG, named after the run; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in (drawings(result) | dict(account.figures if account else {})).items():
        paths.append(folder / f"{result.run_id}-{name}.png")
        draw(result).savefig(paths[-1], dpi=figures.DPI)
    return paths
