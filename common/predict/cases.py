"""A file of measured cases (scaling-cases/1): a case is one workload on one machine and engine, its rows are plans."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.core.legality import why_heads_do_not_divide
from common.core.model_shape import ModelShape
from common.predict.fields import concurrency, count, length, rate, shown, text
from common.predict.hardware import UnknownHardwareError, all_reduce_sizes, all_reduce_table, find
from common.predict.shapes import UnknownModelError, bytes_per_weight, find_shape, shape_of_size
from common.predict.step import CONTINUOUS, PER_TOKEN, STATIC, Rows
from common.predict.wanted import model_figures

# Where a source says none, or something unknown: the prediction is then marked as of low confidence
USUAL_LENGTHS = (512.0, 256.0)
USUAL_FILL = 0.4  # weights on the smallest plan, as a share of one device's memory
LINKED_STAND_IN, STAND_IN = "A100-80GB-SXM4", "L40S"
LINKED = r"nvlink|nvswitch|sxm|infinity|xgmi|fabric"
EAGER_ENGINES = r"tgis|text generation inference|\btgi\b|transformers|h2ogpt|deepspeed|ds-mii"
UNEVEN_ENGINES = r"llama\.?cpp|ollama|exllama|tabby|transformers|deepspeed|ds-mii"
"""Engines that split tensors over any number of devices (llama.cpp's --tensor-split, ExLlamaV2's tensor parallel)."""
HELD_BACK = ("hardware", "path", "shape", "uneven")  # what rows are read with, beside the columns
NEEDED = ("id", "group", "gpu", "model", "rows")
TEXTS = ("id", "group", "gpu", "model", "dtype", "interconnect", "engine")
SCHEMA = "scaling-cases/1"
FORM = f"the form is {SCHEMA}, as in common/predict/data/public_cases.json"


class CaseFileError(ValueError):
    """The file is no file of cases; the message says what is wrong and where."""


@dataclass(frozen=True)
class Measured:
    """One row of a case: a plan and what was measured under it, as a rate (more is better)."""

    id: str
    group: str
    source: str
    devices: int
    plan: str
    rate: float
    kinds: tuple[str, ...]
    """Of TP, PP, DP, MoE, PCIe: those that apply."""
    assumed: tuple[str, ...]
    """What the source does not say and was assumed; empty where everything is known."""
    figures: Mapping[str, Any]
    """One value for each column of `Rows`."""


@dataclass(frozen=True)
class Skipped:
    """A case or row that is not used, and why."""

    id: str
    reason: str
    group: str | None = None


def read_cases(path: Path) -> tuple[list[Measured], list[Skipped]]:
    """All rows of a case file that can be used, and those that cannot, with the reason.

    Raises:
        CaseFileError: not JSON, or no list of cases in it.
    """
    cases = _cases(path)
    measured: list[Measured] = []
    skipped: list[Skipped] = []
    known: set[tuple[str, str]] = set()
    for position, case in enumerate(cases):
        name = str(case.get("id", f"case {position}")) if isinstance(case, dict) else f"case {position}"
        try:
            _read_case(case, name, known, measured, skipped)
        except ValueError as error:
            group = case.get("group") if isinstance(case, dict) else None
            skipped.append(Skipped(name, str(error), str(group) if group else None))
    if not measured:
        first = skipped[0]
        raise CaseFileError(f"{path}: no case can be read ({first.id}: {first.reason}); {FORM}")
    return measured, skipped


def _cases(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaseFileError(f"{path}: not a readable JSON file ({error}); give a file of cases: {FORM}") from error
    if isinstance(content, dict) and "schema_version" in content:
        remedy = f"python week5/predict_scaling.py --measured {path}"
        raise CaseFileError(f"{path}: a result of this lab, not a file of cases; its predictions: {remedy}")
    schema = content.get("schema", SCHEMA) if isinstance(content, dict) else SCHEMA
    if schema != SCHEMA:
        raise CaseFileError(f"{path}: its schema is {shown(schema)}, and only {SCHEMA} can be read; {FORM}")
    cases = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(cases, list):
        raise CaseFileError(f"{path}: holds no list 'cases'; {FORM}")
    if not cases:
        raise CaseFileError(f"{path}: its list of cases is empty; {FORM}")
    return cases


def columns(measured: Sequence[Measured]) -> Rows:
    """The rows as columns."""
    names = [name for name in Rows.__dataclass_fields__ if name != "all_reduce_bytes"]
    made = {name: np.asarray([row.figures[name] for row in measured]) for name in names}
    return Rows(all_reduce_bytes=all_reduce_sizes(), **made)


def _read_case(
    case: object, name: str, known: set[tuple[str, str]], measured: list[Measured], skipped: list[Skipped]
) -> None:
    if not isinstance(case, dict):
        raise ValueError("is not a JSON object")
    missing = [field for field in NEEDED if not case.get(field)]
    if missing:
        raise ValueError(f"has no '{missing[0]}'")
    if not isinstance(case["rows"], list):
        raise ValueError("'rows' is not a list")
    texts = {field: text(case, field) for field in TEXTS}
    if (texts["group"], texts["id"]) in known:
        raise ValueError("another case of its group has the same 'id'")
    known.add((texts["group"], texts["id"]))
    metric = _metric(case)
    shared, assumed = _shared(case, metric)
    for position, row in enumerate(case["rows"]):
        where = f"row {position}"
        try:
            measured.append(_read_row(case, row, metric, shared, assumed))
        except ValueError as error:
            skipped.append(Skipped(name, f"{where}: {error}", str(case["group"])))


def _metric(case: Mapping[str, Any]) -> str:
    """What the case measures; where it does not say, the first known column that its rows have."""
    said = case.get("derived_speedup")
    metric = said.get("metric") if isinstance(said, dict) else None
    if isinstance(metric, str):
        return metric
    for known in ("output_tok_s", "total_tok_s", "tpot_ms", "latency_s", "latency_ms"):
        if any(isinstance(row, dict) and row.get(known) for row in case["rows"]):
            return known if known.endswith("tok_s") else f"1/{known}"
    raise ValueError("has no 'derived_speedup.metric', and no known metric in its rows")


def _shared(case: Mapping[str, Any], metric: str) -> tuple[dict[str, Any], list[str]]:
    """The columns that are the same for all rows of a case, and what had to be assumed."""
    assumed: list[str] = []
    links = str(case.get("interconnect", ""))
    first = next((row for row in case["rows"] if isinstance(row, dict)), {})
    try:
        hardware = find(str(case["gpu"]), links)
    except UnknownHardwareError:
        hardware = find(LINKED_STAND_IN if re.search(LINKED, links.lower()) else STAND_IN)
        assumed.append("figures of the GPU")
    per_weight = bytes_per_weight(str(case["model"]), str(case.get("dtype", "")))
    try:
        shape, guessed = find_shape(str(case["model"]))
    except UnknownModelError:
        shape, guessed = shape_of_size(USUAL_FILL * hardware.memory_bytes / per_weight), True
    if guessed:
        assumed.append("model shape")
    static = "latency" in metric or (metric == "total_tok_s" and "latency_s" in first)
    kind = STATIC if static else PER_TOKEN if "tpot" in metric or "itl" in metric else CONTINUOUS
    engine = str(case.get("engine", "")).lower()
    compiled = re.search(r"tensorrt|trt|fastertransformer", engine) is not None
    return {
        **model_figures(shape, hardware, per_weight),
        "kv_bytes": 1.0 if compiled and per_weight < 2 else 2.0,
        "compiled": float(compiled),
        "hardware": hardware,
        "shape": None if guessed else shape,
        "uneven": re.search(UNEVEN_ENGINES, engine) is not None,
        "path": "nccl" if "fastertransformer" in engine else "eager" if re.search(EAGER_ENGINES, engine) else "custom",
        "input_tokens": length(case, "input_len", USUAL_LENGTHS[0], assumed),
        "output_tokens": length(case, "output_len", USUAL_LENGTHS[1], assumed),
        "kind": kind,
    }, assumed


def _read_row(
    case: Mapping[str, Any], row: object, metric: str, shared: Mapping[str, Any], assumed: Sequence[str]
) -> Measured:
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    devices, more = count(row, "gpus"), list(assumed)
    pp, dp, ep = (count(row, name, 1) for name in ("pp", "dp", "ep"))
    tp = _tensor_parallel(row, devices, more)
    _check_shape(count(row, "tp", tp if ep == 1 else 1), pp, shared)
    figures = {key: value for key, value in shared.items() if key not in HELD_BACK}
    spread = tp * dp if ep > 1 and shared["experts"] else tp
    figures |= {"tp": float(tp), "pp": float(pp), "dp": float(dp), "expert_devices": float(spread)}
    figures["concurrency"] = concurrency(case.get("concurrency"), devices, more)
    figures["unit"] = _unit(metric, figures)
    figures["all_reduce_s"] = all_reduce_table(shared["hardware"], spread, shared["path"])
    kinds = [kind for kind, there in (("PP", pp > 1), ("DP", dp > 1)) if there] or ["TP"]
    kinds += ["MoE"] if shared["experts"] else []
    kinds += ["EP"] if ep > 1 else []
    kinds += ["PCIe"] if shared["hardware"].nvlink is None else []
    plan = f"tp{count(row, 'tp', 1)}" + "".join(
        f"{name}{size}" for name, size in (("pp", pp), ("dp", dp), ("ep", ep)) if size > 1
    )
    return Measured(
        id=str(case["id"]),
        group=str(case["group"]),
        source=str(case["group"]).partition("/")[0],
        devices=devices,
        plan=plan,
        rate=rate(row, metric),
        kinds=tuple(kinds),
        assumed=tuple(more),
        figures=figures,
    )


def _tensor_parallel(row: Mapping[str, Any], devices: int, assumed: list[str]) -> int:
    """Devices over which each layer lies: what is neither pp nor dp, because experts and tensors share devices.

    Sources write expert parallelism beside tensor parallelism or in its place, so `ep` devices may stand for `tp` ones.
    What the plan leaves open is taken as tensor parallel, and that is said in `assumed`.
    """
    tp, pp, dp, ep = (count(row, name, 1) for name in ("tp", "pp", "dp", "ep"))
    written = "".join(f"{name}{size}" for name, size in (("tp", tp), ("pp", pp), ("dp", dp), ("ep", ep)) if size > 1)
    if devices % (tp * pp * dp) or devices % ep:
        needed = tp * pp * dp
        why = f"is a plan of {needed} devices" if needed > devices else f"does not divide {devices} devices"
        raise ValueError(f"{written} {why}, and 'gpus' is {devices}")
    by_experts = ep > 1 and devices in (max(tp * dp, ep) * pp, tp * pp * dp * ep)
    if row.get("tp") is not None and tp * pp * dp < devices and not by_experts:
        assumed.append(f"plan ({written or 'tp1'} on {devices} devices: the rest taken as tensor parallel)")
    return devices // (pp * dp)


def _check_shape(tp: int, pp: int, shared: Mapping[str, Any]) -> None:
    """Of a model that is known, not guessed: its heads and layers can be dealt out so. MLPs are kept too roughly."""
    shape: ModelShape | None = shared["shape"]
    if shape is None or shared["uneven"]:
        return
    wrong = why_heads_do_not_divide(tp, shape)
    if wrong:
        raise ValueError(wrong)
    if pp > shape.num_hidden_layers:
        raise ValueError(f"pp{pp} has more stages than this model has layers ({shape.num_hidden_layers})")


def _unit(metric: str, figures: Mapping[str, Any]) -> float:
    """Measured rate over that of the step model's kind."""
    asked, answered = figures["input_tokens"], figures["output_tokens"]
    per_request = asked + answered if metric == "total_tok_s" else answered
    if metric.endswith("tok_s"):
        return float(figures["concurrency"] * per_request if figures["kind"] == STATIC else per_request / answered)
    return 1e-3 if metric.endswith("_ms") else 1.0
