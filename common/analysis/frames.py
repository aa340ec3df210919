"""Result files found, loaded, and laid out as frames. What was not measured is NaN or None, never 0."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from common.analysis.scaling.rows import (
    ScalingRow,
    by_model,
    communication_share,
    kv_cache_tokens,
    sampling_unit,
    scaling_cases,
    scaling_rows,
)
from common.core.arrivals import ClosedLoop, Replay
from common.core.capacity import usd_per_million_tokens
from common.core.model_shape import ModelShape
from common.core.stats import Estimate
from common.core.weight_split import plan_parameters
from common.store.archive import load_result
from common.store.files import RESULT_NAME, StoreError, load
from common.store.schema import Case, Result

RESULTS = Path(__file__).resolve().parents[2] / "results"
EVENING = "run_distributed_benchmark"  # measures what the others do
CHOSEN = "LAB_RESULT"  # environment variable: the result, or folder of results, that notebooks read


def load_results(place: Path) -> list[Result]:
    """A result file (or a zip that `share` wrote, or `zip:name`), or every result under a folder, oldest first.

    Raises:
        StoreError: nothing there, or a file that cannot be read.
    """
    if not place.is_dir():
        return [load_result(place)]
    found = results_under(place)
    if not found:
        raise StoreError(f"no results under {place}; run a script of week5/ first")
    return [load(path) for path in found]


def load_sound(place: Path) -> Result:
    """One result whose free fields have the form that the lab gives them; a file from elsewhere may hold anything.

    Raises:
        StoreError: it cannot be read, or they have not.
    """
    result = load_result(place)
    environment, config = result.environment, result.config
    devices = environment.get("devices", [])
    sound = isinstance(devices, list) and all(isinstance(one, dict) and "name" in one for one in devices)
    sound = sound and all(isinstance(environment.get(name, {}), dict) for name in ("versions", "settings"))
    sound = sound and all(isinstance(config.get(name, {}), dict) for name in ("engine_settings", "model_shape"))
    sound = sound and all("start" in repeat for case in result.cases for repeat in case.repeats)
    if not sound:
        raise StoreError(f"{place} lacks what the lab writes about devices, settings or starts; measure it again")
    return result


def newest(results: Path, experiment: str) -> Path:
    """The newest result of an experiment under a folder, at any depth.

    Raises:
        StoreError: there is none.
    """
    found = [path for path in results_under(results) if path.parent.name == experiment]
    if not found:
        raise StoreError(f"no result of {experiment} under {results}; run week5/{experiment}.py, or set {CHOSEN}")
    return found[-1]


def latest_reference(experiment: str = "benchmark_scaling") -> Path:
    """The newest committed result of an experiment, on whichever machine.

    Raises:
        StoreError: there is none.
    """
    return newest(RESULTS / "reference", experiment)


def chosen_result(experiment: str = "benchmark_scaling") -> Path:
    """What a notebook reads: the file or folder in LAB_RESULT, else the newest committed result.

    Raises:
        StoreError: nothing is committed, or the file cannot be read or is of another experiment.
    """
    chosen = os.environ.get(CHOSEN)
    if not chosen:
        return latest_reference(experiment)
    place = Path(chosen).expanduser()
    if not place.exists():  # notebooks run in their own folder; a path is written where the checkout is
        place = RESULTS.parent / place
    if place.is_dir():
        return newest(place, experiment)
    found = load_result(place).experiment
    if found not in (experiment, EVENING):
        raise StoreError(f"{CHOSEN}={place} is of {found}; this reads a result of {experiment} (week5/{experiment}.py)")
    return place


def named(place: Path) -> str:
    """A result's file, and whose it is: a reader must not take the lab's reference for a measurement of their own."""
    if (RESULTS / "reference").resolve() in place.resolve().parents:
        return f"{place.name} (the lab's committed reference, not your own)"
    return f"{place.name} (named by {CHOSEN})"


def scaling_frame(result: Result) -> pd.DataFrame:
    """One row per line of the scaling table; SI units but for `ttft_ms`, `tpot_ms` and `e2el_ms`."""
    return pd.DataFrame([_scaling_record(row, result) for row in scaling_rows(result)], columns=_SCALING_COLUMNS)


def repeats_frame(result: Result) -> pd.DataFrame:
    """One row per repeat of every case, rungs of the ladder included; metrics are named as in `vllm bench serve`."""
    records = [_about(case) | repeat for case in result.cases for repeat in case.repeats]
    return pd.DataFrame(records, columns=None if records else ["id", "curve", "plan", "devices", "streams"])


def memory_frame(result: Result) -> pd.DataFrame:
    """One row per plan that started the run's own model: what its devices hold, and how long it took to start.

    `expected_weight_bytes` is the model's weights over the plan's TP size, or of the fullest stage or set of experts.
    """
    result = by_model(result)[0]
    started = {case.plan: case for case in result.cases if case.engine}
    records = [_memory_record(started[plan], result) for plan in sorted(started, key=lambda plan: (plan.devices, plan))]
    return pd.DataFrame(records, columns=_MEMORY_COLUMNS)


def usd_per_million(row: ScalingRow, result: Result) -> float | None:
    """Dollars per million output tokens at a row's throughput, at the whole machine's price; None without one."""
    usd_per_hour = result.cost.get("usd_per_hour")
    if usd_per_hour is None or row.throughput is None:
        return None
    return usd_per_million_tokens(usd_per_hour, row.throughput.value)


_ESTIMATES = ("throughput", "speedup", "efficiency")
_SCALING_COLUMNS = [
    *("id", "curve", "plan", "devices", "streams", "status", "reason", "is_base"),
    *(f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")),
    *(
        "time_scale",
        "ttft_ms",
        "tpot_ms",
        "e2el_ms",
        "serial_share",
        "unresolved",
        "samples",
        "sampling_unit",
        "communication_share",
    ),
    *("kv_cache_tokens", "weight_bytes_per_device", "usd_per_million_output_tokens", "flags"),
]
_MEMORY_COLUMNS = [
    *("plan", "devices", "weight_bytes_per_device", "expected_weight_bytes", "memory_bytes_per_device"),
    *("kv_cache_tokens", "startup_s"),
]


def results_under(folder: Path) -> list[Path]:
    """Result files at any depth, oldest first by name, which begins with the time."""
    found = [path for path in folder.expanduser().rglob("*.json") if RESULT_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name)


def _about(case: Case) -> dict[str, Any]:
    streams = case.arrivals.concurrency if isinstance(case.arrivals, ClosedLoop) else None
    return {
        "id": case.id,
        "curve": case.curve,
        "plan": str(case.plan),
        "devices": case.plan.devices,
        "streams": streams,
    }


def _scaling_record(row: ScalingRow, result: Result) -> dict[str, Any]:
    case = row.case
    record = _about(case) | {
        "status": case.status,
        "reason": case.error.message if case.error else None,
        "is_base": row.is_base,
        "ttft_ms": row.ttft_ms,
        "tpot_ms": row.tpot_ms,
        "e2el_ms": row.e2el_ms,
        "time_scale": case.arrivals.time_scale if isinstance(case.arrivals, Replay) else None,
        "serial_share": row.serial_share,
        "unresolved": row.unresolved if row.speedup else None,
        "samples": row.throughput.n if row.throughput else None,
        "sampling_unit": sampling_unit(scaling_cases(result)),
        "communication_share": communication_share(case, result),
        "kv_cache_tokens": kv_cache_tokens(case),
        "weight_bytes_per_device": _largest(case, "weight_bytes_per_rank"),
        "usd_per_million_output_tokens": usd_per_million(row, result),
        "flags": ", ".join(case.flags),
    }
    for name in _ESTIMATES:
        estimate: Estimate | None = getattr(row, name)
        for end, value in (("", "value"), ("_low", "low"), ("_high", "high")):
            record[name + end] = getattr(estimate, value) if estimate else None
    return record


def _memory_record(case: Case, result: Result) -> dict[str, Any]:
    plan = case.plan
    return {
        "plan": str(plan),
        "devices": plan.devices,
        "weight_bytes_per_device": _largest(case, "weight_bytes_per_rank"),
        "expected_weight_bytes": _expected_weight_bytes(case, result),
        "memory_bytes_per_device": _largest(case, "memory_bytes_per_rank"),
        "kv_cache_tokens": kv_cache_tokens(case),
        "startup_s": case.engine.get("startup_s"),
    }


def _largest(case: Case, name: str) -> float | None:
    """Over the ranks: the fullest device is the one that runs out."""
    return max(case.engine.get(name) or [], default=None)


def _expected_weight_bytes(case: Case, result: Result) -> float | None:
    """What the fullest device should hold: weights over TP; for stages and experts what the layout gives it."""
    plan = case.plan
    if not result.config.get("model_shape"):
        return None
    shape = ModelShape(**result.config["model_shape"])
    if plan.pp > 1 or plan.ep:
        return max(plan_parameters(shape, plan)) * shape.dtype_bytes
    return shape.parameters * shape.dtype_bytes / plan.tp
