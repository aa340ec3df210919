"""Repeats in the form that `vllm bench sweep plot` and `plot_pareto` read: a `summary.json` list of flat runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.core.arrivals import ClosedLoop
from common.store.schema import Case, Result


def export_for_vllm_plots(result: Result, folder: Path) -> Path:
    """Write `<folder>/summary.json` and return its path; cases without repeats are left out."""
    runs = [run for case in result.cases for run in _runs(case, result)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    path.write_text(json.dumps(runs, indent=1))
    return path


def _runs(case: Case, result: Result) -> list[dict[str, Any]]:
    plan = case.plan
    closed = isinstance(case.arrivals, ClosedLoop)
    header = {
        "backend": "vllm",
        "endpoint_type": "openai",
        "label": f"{plan}",
        "curve": case.curve,
        "model_id": case.model or result.config.get("model"),
        "tensor_parallel_size": plan.tp,
        "pipeline_parallel_size": plan.pp,
        "data_parallel_size": plan.dp * plan.replicas,  # plot_pareto counts devices as tp * pp * dp
        "max_concurrency": case.arrivals.concurrency if isinstance(case.arrivals, ClosedLoop) else None,
        "request_rate": "inf" if closed else getattr(case.arrivals, "rate_per_s", None),
        "random_input_len": case.workload.input_tokens,
        "random_output_len": case.workload.output_tokens,
    }
    present = {name: value for name, value in header.items() if value is not None}
    return [present | {"run_number": number} | repeat for number, repeat in enumerate(case.repeats)]
