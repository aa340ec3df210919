"""The comparison of plans: its front, its goals, its diagrams and tables, on results whose truth is planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from common.analysis import views
from common.analysis.frames import memory_frame
from common.analysis.plans import figures
from common.analysis.plans.anatomy import size_words, traffic_words
from common.analysis.plans.goals import GOALS, recommend
from common.analysis.plans.points import plan_points
from common.analysis.plans.table import anatomy_shown, plans_summary, print_plans
from common.analysis.scaling.rows import by_model, scaling_rows
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.store.schema import Case, Result
from tests.analysis.planted import SHAPE, TP1, TP2, X2, case, result

PP2, EP2 = ParallelPlan(pp=2), ParallelPlan(tp=2, ep=True)
MOE_SHAPE = SHAPE | {"num_hidden_layers": 4, "intermediate_size": 512, "num_experts": 8, "num_experts_per_tok": 2}
MOE = "qwen3-moe-16m"
DENSE = ModelShape(**SHAPE)  # type: ignore[arg-type]


def measured(
    plan: ParallelPlan, streams: int, rates: Sequence[float], latency_ms: float, startup_s: float = 30
) -> Case:
    made = case(plan, "fixed", streams, rates)
    for repeat in made.repeats:
        repeat["median_e2el_ms"] = latency_ms
    made.engine["startup_s"] = startup_s
    return made


def around(rate: float) -> list[float]:
    return [0.99 * rate, rate, 1.01 * rate]


def of_moe(one: Case) -> Case:
    one.id, one.model = f"{MOE}/{one.id}", MOE
    return one


def compared(**changes: object) -> Result:
    cases = [
        measured(TP1, 1, around(50), 640, startup_s=28),
        measured(TP1, 16, around(300), 1700, startup_s=28),
        measured(TP2, 1, around(80), 400, startup_s=33),
        measured(TP2, 16, around(480), 1060, startup_s=33),
        measured(PP2, 1, around(45), 710, startup_s=32),
        measured(PP2, 16, around(500), 1020, startup_s=32),
        measured(X2, 1, around(50), 640, startup_s=45),
        measured(X2, 16, around(499), 1100, startup_s=45),
        of_moe(measured(TP1, 1, around(200), 160)),
        of_moe(measured(EP2, 1, around(100), 320)),
    ]
    fields = {
        "experiment": "compare_parallel_plans",
        "config": {"model": "qwen2-9m", "model_shape": SHAPE, "other_models": {MOE: MOE_SHAPE}},
    }
    return result(cases, **fields | changes)


def printed(made: Result, **options: object) -> str:
    console = Console(file=StringIO(), width=80)
    print_plans(made, console=console, **options)  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_models_are_compared_with_their_own_base_only() -> None:
    rows = {row.case.id: row for row in scaling_rows(compared())}
    experts, split = rows[f"{MOE}/tp2ep/fixed/c1"].speedup, rows["tp2/fixed/c1"].speedup
    assert experts is not None and experts.value == pytest.approx(0.5)
    assert split is not None and split.value == pytest.approx(1.6)
    assert [row.case.id for row in rows.values() if row.is_base] == [
        "tp1/fixed/c1",
        "tp1/fixed/c16",
        f"{MOE}/tp1/fixed/c1",
    ]
    own, other = by_model(compared())
    assert {one.plan for one in own.cases} == {TP1, TP2, PP2, X2}
    assert (other.config["model"], other.config["model_shape"]) == (MOE, MOE_SHAPE)


def test_the_front_is_what_nothing_beats_in_both() -> None:
    front = {point.case for point in plan_points(by_model(compared())[0]) if point.on_front}
    # per device: tp1 50, 300; tp2 40, 240; pp2 22, 250; x2 25, 249
    assert front == {"tp2/fixed/c1", "tp1/fixed/c1", "pp2/fixed/c16", "tp1/fixed/c16"}


def test_each_goal_has_its_plan_and_its_number() -> None:
    own = by_model(compared())[0]
    throughput, memory, development = (recommend(own, goal) for goal in GOALS)
    assert throughput is not None and memory is not None and development is not None
    assert throughput.plan == PP2
    assert throughput.rivals == (X2,), "0.2 % apart, with 1 % of noise"
    assert "500 tok/s at 16 streams" in throughput.reason
    assert memory.plan == TP2, "planted weights follow TP alone"
    assert "10 MB of weights on its fullest device" in memory.reason
    assert development.plan == TP1
    assert "up in 28 s and 10 answers done after 34 s, on 1 device; tp1x2 takes 51 s" in development.reason


def test_without_numbers_no_goal_has_a_plan() -> None:
    empty = result([])
    assert [recommend(empty, goal) for goal in GOALS] == [None] * 3
    assert plans_summary(empty) == {"pareto_front": [], "recommended": {}}
    assert plan_points(empty) == []
    assert "no case was measured" in printed(empty)


def test_shared_devices_and_spoilt_clients_are_no_points() -> None:
    made = compared()
    made.cases[2].flags.append("oversubscribed")
    assert "tp2/fixed/c1" not in {point.case for point in plan_points(by_model(made)[0])}


def test_the_page_names_front_holdings_traffic_and_goals() -> None:
    text = printed(compared())
    tables = [line for line in text.splitlines() if not line.startswith(("- ", "  [", "  tp", "  pp"))]
    assert max(map(len, tables)) <= 80
    for expected in ("Pareto front", "Who holds what", "Who sends what", "Which plan for what", "qwen3-moe-16m"):
        assert expected in text
    assert "1/2 of each MLP" in text
    assert "experts 4-7" in text
    assert "throughput: pp2: 500 tok/s" in text
    alone = printed(compared(), goals=("memory",))
    assert "--tensor-parallel-size 2" in alone
    assert "throughput:" not in alone
    assert "$/M out" in printed(compared(cost={"usd_per_hour": 3.6}))


def test_a_result_from_elsewhere_without_shapes_is_still_read() -> None:
    made = compared(config={"model": "theirs"})
    assert "Who holds what" not in printed(made)
    for draw in figures.FIGURES.values():
        draw(made)


def test_holdings_add_up_to_the_model() -> None:
    shape = DENSE
    frame = anatomy_shown([TP2, PP2, ParallelPlan.parse("pp5+3")], shape)
    assert list(frame["layers"]) == ["0-7", "0-7", "0-3", "4-7", "0-4", "5-7"]
    assert list(frame["heads"]) == ["0-3", "4-7", "0-7", "0-7", "0-7", "0-7"]
    assert list(frame["KV heads"])[:2] == ["0-1", "2-3"]


def test_traffic_in_words() -> None:
    shape = DENSE
    assert traffic_words(TP1, shape) == "nothing"
    assert traffic_words(X2, shape) == "nothing: each engine works for itself"
    assert traffic_words(PP2, shape) == "1 send/receive: 1.02 kB per token"
    assert "17 all-reduces: 17.4 kB" in traffic_words(TP2, shape)
    assert [size_words(count) for count in (12, 4096, 2.5e6)] == ["12 B", "4.1 kB", "2.5 MB"]


def test_memory_knows_what_stages_and_experts_should_hold() -> None:
    own, other = by_model(compared())
    dense = memory_frame(own).set_index("plan")["expected_weight_bytes"]
    assert dense["tp2"] < dense["pp2"] < dense["tp1"], "both stages hold the tied embedding"
    experts = memory_frame(other).set_index("plan")["expected_weight_bytes"]
    assert 0.5 < experts["tp2ep"] / experts["tp1"] < 0.51, "routers and norms are copied"


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_are_drawn_with_and_without_data(name: str, tmp_path: Path) -> None:
    for made in (compared(), result([]), replace(compared(), cases=compared().cases[:1])):
        figure = figures.FIGURES[name](made)
        figure.savefig(tmp_path / "figure.png", dpi=30)
        assert figure.get_size_inches() == pytest.approx((12.8, 7.2))


def test_look_draws_them_for_this_experiment_alone() -> None:
    assert set(figures.FIGURES) <= set(views.drawings(compared()))
    assert not set(figures.FIGURES) & set(views.drawings(compared(experiment="benchmark_scaling")))
