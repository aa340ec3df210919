"""A result in plain sentences: what the numbers say, and what they do not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.analysis.newest import STATES, same_command
from common.analysis.scaling.doubts import doubts
from common.analysis.scaling.limits import limits
from common.analysis.scaling.load_curves import load_curves
from common.analysis.scaling.rows import (
    ScalingRow,
    by_model,
    compared,
    sampling_unit,
    scaling_cases,
    scaling_rows,
    where,
)
from common.analysis.scaling.windows import windows
from common.analysis.wording import CARRIES_OVER, interval, milliseconds, streams
from common.core.plan import ParallelPlan
from common.store.schema import Case, CaseError, Result

WITHIN_START = (
    "Intervals are 95 % over repeats inside one engine start; another start may differ by more (--preset lab)."
)
WITHIN_RUN = "Intervals are 95 % over repeats of one run; another run may differ by more."

NUMBER = re.compile(r"[-+]?\d[\d.,]*")


def read_scaling(result: Result) -> list[str]:
    """Sentences for under the scaling table."""
    return [*gains(result), *limits(result), *caveats(result), *left_out(result)]


def gains(result: Result) -> list[str]:
    """The speed-up of every plan, in words."""
    rows = scaling_rows(result)
    bases = {(row.curve, row.load): row for row in rows if row.is_base}
    return [
        _latency_gain(row, bases[row.curve, row.load]) if row.curve == "replay" else _gain(row)
        for row in rows
        if row.speedup is not None
    ]


def caveats(result: Result) -> list[str]:
    """What the numbers do not show."""
    lines = []
    rows = [row for row in scaling_rows(result) if row.speedup is not None]
    lines += [*without_base(result), *without_client(result), *doubts(result), *client_words(result)]
    lines += windows(scaling_rows(result))
    if rows:
        lines += of_intervals(scaling_cases(result))
    lines += [
        f"{curve.plan} still gained at {streams(curve.saturated.streams)}, the most tried: its limit was not seen."
        for curve in load_curves(result)
        if curve.saturated and curve.still_gaining
    ]
    if any("host_shares_devices" in row.case.flags for row in rows):
        lines.append(
            "The largest plan occupies every core: API server and client took part of its devices, so its gain is"
            " understated (host_shares_devices)."
        )
    if any(row.curve == "weak" and row.efficiency and row.efficiency.value > 1 for row in rows):
        lines.append(
            "Above 100% in weak is no wonder: it compares a larger batch with a smaller one, and a step reads the"
            " weights once for all of its streams."
        )
    if any(row.curve == "replay" for row in rows):
        lines.append(
            "A replay offers every plan the same requests at the same times: its tokens per second say what came, not"
            " what a plan can do, so its plans are compared by latency."
        )
    if result.environment.get("device_kind") == "cpu":
        lines.append(CARRIES_OVER)
    return lines


def of_intervals(cases: Sequence[Case]) -> list[str]:
    """What the cases' intervals do not hold; nothing where none was measured twice, so that there are none."""
    if sampling_unit(cases) != "within-start" or all(len(case.repeats) < 2 for case in cases):
        return []
    return [WITHIN_RUN if any("external" in case.flags for case in cases) else WITHIN_START]


def without_base(result: Result) -> list[str]:
    """Where no speed-up is stated although plans were measured: another base would be another comparison."""
    lines = []
    for one in compared(result):
        measured = [row for row in one.rows if row.throughput is not None]
        if one.base_plan is None or one.base is not None or all(row.case.plan == one.base_plan for row in measured):
            continue
        case = next((case for case in one.rivals if case.plan == one.base_plan), None)
        why = "was not measured there" if case is None else f"is {case.status} there"
        if case is not None and case.status == "ok":
            why = "has an INVALID client there" if case.is_invalid else "cannot be one there"
        model = f"{measured[0].case.model}: " if measured[0].case.model else ""
        lines.append(f"{model}No speed-up {where(measured[0])} ({one.curve}): {one.base_plan}, the base, {why}.")
    return lines


def without_client(result: Result) -> list[str]:
    """Plans that were to be compared and cannot be, because the client was INVALID in every row that they have."""
    lines = []
    for part in by_model(result):
        rows: dict[ParallelPlan, list[ScalingRow]] = {}
        for row in scaling_rows(part):
            if row.throughput is not None:
                rows.setdefault(row.case.plan, []).append(row)
        if len(rows) < 2:
            continue
        smallest = min(rows, key=lambda plan: (plan.devices, plan.replicas, plan))
        for plan, own in rows.items():
            if all(row.case.is_invalid for row in own):
                model = f"{own[0].case.model}: " if own[0].case.model else ""
                what = f"{'over' if plan == smallest else 'of'} {plan}"
                lines.append(f"{model}No speed-up {what} could be measured: its client was INVALID in every row.")
    return lines


def incomplete(result: Result) -> list[str]:
    """Whether the run came to its end, and what brings it there."""
    if result.status == "complete":
        return []
    return [f"The run is not complete ({STATES[result.status]}): {same_command(result)} goes on with what is missing."]


def left_out(result: Result) -> list[str]:
    """What is missing from the table or doubtful in it: cases that did not run, checks that failed, warnings."""
    bases = {one.base.id for one in compared(result) if one.base and any(row.speedup for row in one.rows)}
    reasons: dict[tuple[str, str, CaseError], list[str]] = {}
    for case in result.cases:
        if case.error is not None:
            measured = "the server" if result.config.get("external") else str(case.plan)
            reasons.setdefault((measured, case.status, case.error), []).append(case.curve)
    lines = [
        f"{plan} {status} ({', '.join(dict.fromkeys(curves))}): {error.message.rstrip('.')}. {error.remedy}".rstrip()
        for (plan, status, error), curves in reasons.items()
    ]
    lines += incomplete(result)
    lines += [
        f"Doubtful: {case.id} fails the check '{check.name}': {check.detail}"
        f"{'; it is the base, so speed-ups over it are doubtful too' if case.id in bases else ''}"
        for case in result.cases
        for check in case.checks
        if check.passed is False
    ]
    return list(dict.fromkeys([*lines, *result.warnings]))


def _latency_gain(row: ScalingRow, base: ScalingRow) -> str:
    assert row.speedup is not None
    unresolved = ": not resolved from no gain" if row.unresolved else ""
    return (
        f"In the replay (times x{row.load:g}) {_who(row)} answer the median request {interval(row.speedup)}x as fast:"
        f" {milliseconds(row.e2el_ms)} against {milliseconds(base.e2el_ms)} with {base.case.plan}{unresolved}."
    )


def _who(row: ScalingRow) -> str:
    plan = row.case.plan
    return f"{plan.devices} devices ({plan})" if plan.devices > 1 else f"{plan}"


def client_words(result: Result) -> list[str]:
    """What the client's verdicts say, cases together whose word, remedy and reason are the same but for numbers."""
    judged: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in result.cases:
        if case.client is not None and case.client.word != "VALID" and not case.curve.startswith("ladder"):
            judged.setdefault((case.client.word, case.client.remedy), []).append((case.id, case.client.reasons[0]))
    lines = []
    for (word, remedy), found in judged.items():
        cases: dict[str, list[str]] = {}
        for (case_id, _), reason in zip(found, but_for_numbers([reason for _, reason in found]), strict=True):
            cases.setdefault(reason, []).append(case_id)
        lines += [f"The client is {word} in {', '.join(ids)}: {why}. Remedy: {remedy}." for why, ids in cases.items()]
    return lines


def but_for_numbers(reasons: Sequence[str]) -> list[str]:
    """Each reason in the words of the first that differs from it in numbers alone; that they do is said behind it."""
    first: dict[str, str] = {}
    kinds = [NUMBER.sub("#", reason) for reason in reasons]
    differing = {kind for kind, reason in zip(kinds, reasons, strict=True) if first.setdefault(kind, reason) != reason}
    return [first[kind] + (" (the first one's numbers)" if kind in differing else "") for kind in kinds]


def _gain(row: ScalingRow) -> str:
    assert row.speedup is not None
    load = "" if row.curve == "fixed" else f" ({streams(row.load)})"
    unresolved = ": not resolved from no gain" if row.unresolved else ""
    kept = f", efficiency {row.efficiency.value:.0%}" if row.efficiency else ""
    return f"{_who(row)} are {interval(row.speedup)}x {where(row)}{load}{kept}{unresolved}."
