"""What a comparison of plans prints: scaling, memory, the Pareto front, the anatomy of every plan, the goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from common.analysis.learning.configuration import serving_commands
from common.analysis.plans.anatomy import holdings, sources, traffic_words
from common.analysis.plans.goals import GOALS, Goal, Recommendation, recommend
from common.analysis.plans.points import Point, plan_points, started
from common.analysis.scaling.rows import by_model
from common.analysis.scaling.table import framed, print_scaling, stdout
from common.core.capacity import usd_per_million_tokens
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.store.schema import Result

ON_FRONT = "front"
MANY_DEVICES = 8  # plans on more are not laid out rank by rank


def print_plans(result: Result, goals: Sequence[Goal] = GOALS, console: Console | None = None) -> None:
    """Everything about the plans of each model, the run's own first; models are not compared with each other."""
    console = console or stdout()
    parts = by_model(result)
    for part in parts:
        if len(parts) > 1:
            console.rule(f"[bold]{part.config['model']}[/]")
        print_scaling(part, console)
        _print_front(part, console)
        _print_anatomy(part, console)
    _print_goals(parts[0], goals, console)


def plans_summary(result: Result) -> dict[str, Any]:
    """For the last line: cases on the Pareto front of their model, and the plan for each goal."""
    parts = by_model(result)
    front = [point.case for part in parts for point in plan_points(part) if point.on_front]
    chosen = {goal: recommend(parts[0], goal) for goal in GOALS}
    return {"pareto_front": front, "recommended": {goal: str(found.plan) for goal, found in chosen.items() if found}}


def goals_said(result: Result) -> list[str]:
    """The plan for each goal and why, a sentence each, of the run's own model."""
    return [_goal_words(chosen) for chosen in _recommended(by_model(result)[0], GOALS)]


def front_shown(result: Result) -> pd.DataFrame:
    """Points as text, one row each, best per device first; cost where a price is known."""
    usd_per_hour = result.cost.get("usd_per_hour")
    points = sorted(plan_points(result), key=lambda point: point.latency_s)
    names = ["plan", "streams", "latency s", "tok/s", "tok/s per device", "Pareto", "$/M out"]
    frame = pd.DataFrame([_cells(point, usd_per_hour) for point in points], columns=names, index=[""] * len(points))
    return frame if usd_per_hour is not None else frame.drop(columns="$/M out")


def anatomy_shown(plans: Sequence[ParallelPlan], shape: ModelShape) -> pd.DataFrame:
    """What every device of every plan holds, as text."""
    names = ["plan", "device", "layers", "heads", "KV heads", "MLP or experts", "weights MB"]
    records = [
        [str(plan) if place == 0 else "", *cells] for plan in plans for place, cells in enumerate(holdings(plan, shape))
    ]
    return pd.DataFrame(records, columns=names, index=[""] * len(records))


def _cells(point: Point, usd_per_hour: float | None) -> list[str]:
    usd = "" if usd_per_hour is None else f"{usd_per_million_tokens(usd_per_hour, point.throughput):.2f}"
    return [
        str(point.plan),
        f"{point.streams:g}",
        f"{point.latency_s:.3g}",
        f"{point.throughput:.4g}",
        f"{point.per_device:.4g}",
        ON_FRONT if point.on_front else "",
        usd,
    ]


def _print_front(result: Result, console: Console) -> None:
    frame = front_shown(result)
    if frame.empty:
        return
    console.print("\n[bold]Pareto front[/]  median request's whole time against tokens per second and device")
    console.print(framed(frame))
    console.print("front: no other plan and load is as good in both; everything else is beaten by one of these")


def _print_anatomy(result: Result, console: Console) -> None:
    """From the plans that started; from all where none did."""
    if not result.config.get("model_shape"):
        return
    shape = ModelShape(**result.config["model_shape"])
    plans = [plan for plan in started(result) if plan.devices <= MANY_DEVICES]
    if not plans:
        return
    console.print("\n[bold]Who holds what[/]  per device; counted from 0, weights as they are stored")
    frame = anatomy_shown(plans, shape)
    ends = [place - 1 for place, name in enumerate(frame["plan"]) if name and place]
    console.print(framed(frame, ends))
    console.print("[bold]Who sends what[/]  calls per forward pass, and bytes that one token puts on links")
    for plan in plans:
        console.print(f"  {f'{plan}':8} {traffic_words(plan, shape)}", soft_wrap=not console.is_terminal)
    for line in sources(plans, shape):
        console.print(f"  [{line}]", soft_wrap=not console.is_terminal, markup=False)


def _recommended(result: Result, goals: Sequence[Goal]) -> list[Recommendation]:
    return [chosen for goal in goals if (chosen := recommend(result, goal))]


def _print_goals(result: Result, goals: Sequence[Goal], console: Console) -> None:
    found = _recommended(result, goals)
    if not found:
        return
    console.print("\n[bold]Which plan for what[/]")
    for chosen in found:
        console.print(f"- {_goal_words(chosen)}", soft_wrap=not console.is_terminal, markup=False)
        if len(goals) == 1:
            for line in serving_commands(chosen.plan, result):
                console.print(f"  {line}", soft_wrap=True, markup=False)


def _goal_words(chosen: Recommendation) -> str:
    text = f"{chosen.goal}: {chosen.plan}: {chosen.reason}."
    if chosen.rivals:
        text += f" Not told apart from it: {', '.join(map(str, chosen.rivals))}."
    return text
