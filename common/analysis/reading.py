"""A result in plain sentences: what the numbers say, and what they do not."""

from __future__ import annotations

from common.analysis.scaling import ScalingRow, communication_share, sampling_unit, scaling_rows
from common.core.stats import Estimate
from common.store.schema import Result

CARRIES_OVER = (
    "On CPU slices the method and the shape of the loss carry over to GPUs; the numbers do not: slices share memory"
    " bandwidth, last-level cache and turbo."
)


def read_scaling(result: Result) -> list[str]:
    """Sentences for under the scaling table."""
    rows = scaling_rows(result)
    gained = [row for row in rows if row.speedup is not None]
    lines = [_gain(row) for row in gained]
    lines += _why_not_more(gained, result)
    if gained and sampling_unit(result) == "within-start":
        lines.append(
            "Intervals are 95 % over repeats inside one engine start; another start may differ by more (--preset lab)."
        )
    if any("host_shares_devices" in row.case.flags for row in gained):
        lines.append(
            "The largest plan occupies every core: API server and client took part of its devices, so its gain is"
            " understated (host_shares_devices)."
        )
    if result.environment.get("device_kind") == "cpu":
        lines.append(CARRIES_OVER)
    for row in rows:
        if row.case.error is not None:
            lines.append(f"{row.case.plan} {row.curve}: {row.case.status}: {row.case.error.message}.")
    failed_checks = [
        f"{case.id}: {check.name}: {check.detail}"
        for case in result.cases
        for check in case.checks
        if check.passed is False
    ]
    return list(dict.fromkeys([*lines, *failed_checks]))


def interval(estimate: Estimate, digits: int = 2) -> str:
    """`1.41 [1.33, 1.49]`, or the bare value where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _gain(row: ScalingRow) -> str:
    assert row.speedup is not None
    plan = row.case.plan
    what = f"{plan.devices} devices ({plan})" if plan.devices > 1 else f"{plan}"
    load = {
        "fixed": f"at {row.load} stream{'s' if row.load > 1 else ''}",
        "weak": f"at {row.load} streams, as many per device",
    }
    where = load.get(row.curve, f"saturated (at {row.load} streams)")
    unresolved = ": not resolved from no gain" if row.unresolved else ""
    kept = f", efficiency {row.efficiency.value:.0%}" if row.efficiency else ""
    return f"{what} are {interval(row.speedup)}x {where}{kept}{unresolved}."


def _why_not_more(rows: list[ScalingRow], result: Result) -> list[str]:
    reasons = []
    fixed = [row for row in rows if row.curve == "fixed" and row.case.plan.tp > 1]
    if fixed:
        row = max(fixed, key=lambda row: row.load)
        share = communication_share(row.case, result)
        if share is not None:
            path = row.case.engine["all_reduce"][0]["path"]
            reasons.append(
                f"All-reduces explain at least {share:.1%} of a {row.case.plan} decoding step at {row.load} streams"
                f" (timed alone, through {path})."
            )
    ceilings = result.environment.get("ceilings") or {}
    memory, matrix = ceilings.get("memory_scaling"), ceilings.get("matrix_scaling")
    if memory and matrix:
        count = ceilings.get("devices")
        reasons.append(
            f"The machine itself: {count} slices together reach {memory / count:.0%} of {count} times one slice's"
            f" memory bandwidth, and {matrix / count:.0%} of {count} times its matrix rate."
        )
    return reasons
