"""The export's own promises; that vLLM's plots read it is shown where vLLM is at hand."""

from __future__ import annotations

import json
from pathlib import Path

from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.store.export import export_for_vllm_plots
from tests.store.sample import sample_result


def test_one_flat_run_for_each_repeat(tmp_path: Path) -> None:
    path = export_for_vllm_plots(sample_result(), tmp_path / "x.bench")
    assert path == tmp_path / "x.bench" / "summary.json"
    runs = json.loads(path.read_text())
    assert [(run["run_number"], run["output_throughput"]) for run in runs] == [(0, 76.8), (1, 96.0)]
    first = runs[0]
    assert first["tensor_parallel_size"] == 2
    assert first["max_concurrency"] == 2
    assert first["model_id"] == "qwen2-9m"
    assert (first["random_input_len"], first["random_output_len"]) == (64, 32)
    assert not any(isinstance(value, (dict, list, type(None))) for run in runs for value in run.values())


def test_replicas_count_as_devices(tmp_path: Path) -> None:
    """`plot_pareto` divides by tp x pp x dp."""
    result = sample_result()
    case = result.cases[0]
    case.plan, case.arrivals = ParallelPlan(tp=2, pp=3, dp=2, replicas=2), ClosedLoop(8)
    (run, _) = json.loads(export_for_vllm_plots(result, tmp_path).read_text())
    sizes = [run[f"{name}_parallel_size"] for name in ("tensor", "pipeline", "data")]
    assert sizes[0] * sizes[1] * sizes[2] == case.plan.devices == 24


def test_an_open_loop_states_its_rate(tmp_path: Path) -> None:
    result = sample_result()
    result.cases[1].repeats = [{"start": 0, "repeat": 0, "output_throughput": 1.0}]
    run = json.loads(export_for_vllm_plots(result, tmp_path).read_text())[-1]
    assert run["request_rate"] == 2.5
    assert "max_concurrency" not in run


def test_nothing_measured_is_an_empty_list(tmp_path: Path) -> None:
    result = sample_result()
    result.cases = []
    assert json.loads(export_for_vllm_plots(result, tmp_path).read_text()) == []
