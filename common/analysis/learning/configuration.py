"""`my_configuration.md`: the best configuration for each goal, written from what was measured."""

from __future__ import annotations

import re
from pathlib import Path

from common.analysis.frames import usd_per_million
from common.analysis.learning.evidence import UNREADABLE, Measured
from common.analysis.scaling.findings import conclusions
from common.analysis.scaling.reading import caveats
from common.analysis.scaling.rows import LIKE_ALONE, ScalingRow, fair_rows, samples, scaling_rows
from common.analysis.wording import about, interval, streams
from common.core.plan import ParallelPlan
from common.core.stats import ratio
from common.store.schema import Result

NOTES = "## Your notes"
EMPTY_NOTES = "(What you write below this line stays when the file is written again.)"
NAME = "my_configuration.md"
MODELS = "~/.cache/distributed-inference-lab/models"
PINNED = ("dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization")


def write_configuration(measured: Measured, results: Path) -> Path:
    """Write the file from the newest result that compares plans; notes below its heading are kept.

    Raises:
        ValueError: nothing was measured that could be written, in one line.
    """
    for path, result in measured:
        try:
            text = configuration(result, path.relative_to(results).as_posix())
        except UNREADABLE:
            continue
        if text:
            target = results / NAME
            target.write_text(f"{text}\n{NOTES}\n{_notes(target)}", encoding="utf-8")
            return target
    raise ValueError(
        "no complete result compares plans yet, two of them by numbers to be believed: run python"
        " week5/benchmark_scaling.py first, on a machine that does nothing else"
    )


def documented(measured: Measured, results: Path) -> tuple[str, Path | None, list[str]]:
    """What to say of the file, the file where its numbers are those of a result that is there, what is wrong."""
    target = results / NAME
    try:
        text = target.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "not written yet", None, []
    except (OSError, UnicodeDecodeError):
        return "", None, [f"{NAME} cannot be read; write it again"]
    source = re.search(r"^From `([^`\n]+)`", text, re.MULTILINE)
    if source is None:
        return "", None, [f"{NAME} does not say which result it is from; write it again"]
    result = next((one for path, one in measured if path.relative_to(results).as_posix() == source[1]), None)
    if result is None:
        return "", None, [f"{NAME} is from a result that is gone or not complete; write it again"]
    try:
        expected = configuration(result, source[1])
    except UNREADABLE:
        return "", None, [f"the result of {NAME} cannot be read any more; measure again, then write it again"]
    if not text.startswith(expected) or not expected:
        return "", None, [f"{NAME} is not what its result says; write it again (your notes are kept)"]
    best = best_throughput(result)
    assert best is not None and best.throughput is not None, "what was written has a best row"
    return f"{best.case.plan}: {best.throughput.value:.0f} tok/s at {streams(best.load)}", target, []


def configuration(result: Result, source: str) -> str:
    """The whole file but for the notes; empty where fewer than two plans were measured by a client to be believed."""
    fastest, best, leanest = best_latency(result), best_throughput(result), best_per_device(result)
    compared = {row.case.plan for row in fair_rows(result)}
    if fastest is None or best is None or leanest is None or len(compared) < 2:
        return ""
    lines = [
        "# My configuration",
        "",
        f"From `{source}`: {about(result)}.",
        "",
        "| goal | plan | load | measured | not told apart from |",
        "|---|---|---|---|---|",
        _line("shortest time per token", fastest, f"{fastest.tpot_ms:.3g} ms per token", result, "median_tpot_ms"),
        _line("most tokens per second", best, _rate(best), result, "output_throughput"),
        _line("most from each device", leanest, f"{_per_device(leanest):.0f} tok/s per device", result, None),
    ]
    usd = usd_per_million(best, result)
    if usd is not None:
        lines += ["", f"At ${result.cost['usd_per_hour']:.2f} per hour {best.case.plan} costs ${usd:.3f} per million"]
        lines[-1] += f" output tokens at {streams(best.load)}."
    lines += [
        "",
        "To serve it:",
        "",
        "```",
        *serving_commands(best.case.plan, result),
        "```",
        "",
        "What was found:",
        "",
    ]
    lines += [f"- {sentence}" for sentence in conclusions(result)]
    lines += ["", "What to doubt:", "", *(f"- {sentence}" for sentence in caveats(result))]
    return "\n".join(lines) + "\n"


def best_latency(result: Result) -> ScalingRow | None:
    """The plan whose tokens come fastest at the lightest load of all."""
    rows = [row for row in fair_rows(result) if row.tpot_ms is not None]
    lightest = min((row.load for row in rows), default=0.0)
    return min((row for row in rows if row.load == lightest), key=lambda row: row.tpot_ms or 0.0, default=None)


def best_throughput(result: Result) -> ScalingRow | None:
    """The plan that gives most tokens per second at whatever load."""
    return max(fair_rows(result), key=_value, default=None)


def best_per_device(result: Result) -> ScalingRow | None:
    """The plan that gives most tokens per second and device at whatever load."""
    return max(fair_rows(result), key=_per_device, default=None)


def _value(row: ScalingRow) -> float:
    return row.throughput.value if row.throughput else 0.0


def _per_device(row: ScalingRow) -> float:
    return _value(row) / row.case.plan.devices


def _rate(row: ScalingRow) -> str:
    assert row.throughput is not None
    return f"{interval(row.throughput, 0)} tok/s"


def _line(goal: str, row: ScalingRow, measured: str, result: Result, metric: str | None) -> str:
    rivals = ", ".join(_not_told_apart(row, result, metric)) if metric else ""
    left_out = ", ".join(_left_out(row, result, anywhere=metric != "median_tpot_ms"))
    said = f"{rivals or '-'}{f' (left out, their client INVALID: {left_out})' if left_out else ''}"
    return f"| {goal} | {row.case.plan} | {streams(row.load)} | {measured} | {said} |"


def _left_out(row: ScalingRow, result: Result, *, anywhere: bool) -> list[str]:
    """Other plans that an INVALID client kept out of the choice: at this row's curve and load, or anywhere."""
    invalid = [other for other in scaling_rows(result) if other.case.is_invalid and other.curve in LIKE_ALONE]
    alike = [other for other in invalid if anywhere or (other.curve, other.load) == (row.curve, row.load)]
    return list(dict.fromkeys(str(other.case.plan) for other in alike if other.case.plan != row.case.plan))


def _not_told_apart(row: ScalingRow, result: Result, metric: str) -> list[str]:
    """Other plans at the same curve and load whose ratio to this one has no interval, or one that holds 1."""
    found = []
    for other in fair_rows(result):
        if other.case.plan == row.case.plan or (other.curve, other.load) != (row.curve, row.load):
            continue
        upper, lower = samples(other.case, metric), samples(row.case, metric)
        gap = ratio(metric, "x", upper, lower) if upper and lower and min(*upper, *lower) > 0 else None
        if gap is None or gap.unresolved:
            found.append(str(other.case.plan))
    return found


def serving_commands(plan: ParallelPlan, result: Result) -> list[str]:
    """The `vllm serve` that runs a plan as it was measured, and what else it takes."""
    pinned = result.config.get("engine_settings", {})
    options = [f"--{name.replace('_', '-')} {pinned[name]}" for name in PINNED if pinned.get(name) is not None]
    options += ["--enforce-eager"] if pinned.get("eager") else []
    sizes = [f"--tensor-parallel-size {plan.tp}"]
    sizes += [f"--pipeline-parallel-size {plan.pp}"] if plan.pp > 1 else []
    sizes += [f"--data-parallel-size {plan.dp}"] if plan.dp > 1 else []
    sizes += ["--enable-expert-parallel"] if plan.ep else []
    layers = [f"VLLM_PP_LAYER_PARTITION={','.join(map(str, plan.stage_layers))}"] if plan.stage_layers else []
    model = str(result.config.get("model", "MODEL"))
    command = " ".join([*layers, "vllm serve", model, *sizes, *options])
    folder = "" if "/" in model else f"# {model} stands for its folder; the lab's own models are under {MODELS}"
    copies = f"# {plan.replicas} of these, each on devices and a port of its own" if plan.replicas > 1 else ""
    return [line for line in (copies, folder, command) if line]


def _notes(target: Path) -> str:
    """What stands below the heading of an earlier file."""
    try:
        _, heading, notes = target.read_text(encoding="utf-8").partition(f"{NOTES}\n")
    except (OSError, UnicodeDecodeError):
        return f"\n{EMPTY_NOTES}\n"
    return notes if heading else f"\n{EMPTY_NOTES}\n"
