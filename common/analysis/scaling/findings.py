"""What each figure shows, as one sentence computed from the data: its title."""

from __future__ import annotations

from common.analysis.scaling.load_curves import LoadCurve, load_curves
from common.analysis.scaling.rows import ScalingRow, communication_share, scaling_rows, where
from common.analysis.wording import streams
from common.store.schema import Result

BELIEVED = " under a client to be believed"


def conclusions(result: Result) -> list[str]:
    """The findings of all figures."""
    return [f"{finding(result)}." for finding in (speedup_finding, saturation_finding, step_finding)]


def gained_rows(result: Result) -> list[ScalingRow]:
    """Rows that have a speed-up, the plans that share devices left out: they are not scaling."""
    rows = scaling_rows(result)
    return [row for row in rows if row.speedup is not None and "oversubscribed" not in row.case.flags]


def step_rows(result: Result) -> list[ScalingRow]:
    """Rows whose decoding steps can be compared, because every plan has the same streams."""
    rows = [row for row in scaling_rows(result) if row.curve == "fixed" and row.tpot_ms is not None]
    return [row for row in rows if "oversubscribed" not in row.case.flags]


def speedup_finding(result: Result) -> str:
    """What the largest plan gains at best and at worst, and what replicas on the same devices do instead."""
    rows = gained_rows(result)
    if not rows:
        return "No plan was compared with a smaller one"
    plan = max((row.case.plan for row in rows), key=lambda plan: (plan.devices, plan.tp, plan))
    best, worst = _extremes([row for row in rows if row.case.plan == plan])
    rivals = [row for row in rows if row.case.plan.replicas > 1 and row.case.plan.devices == plan.devices]
    text = f"{plan} gives {_verdict(best)} {where(best)}"
    if worst is not best:
        text += f", {_verdict(worst)} {where(worst)}"
    if rivals and plan.replicas == 1:
        alike = [row for row in rivals if where(row) == where(best)]
        rival = _extremes(alike or rivals)[0]
        text += f"; {rival.case.plan} gives {_verdict(rival)} {where(rival)}"
    return f"{text}; ideal is {best.ideal:g}×" if best.ideal else text


def saturation_finding(result: Result) -> str:
    """Where the smallest and the largest plan stop gaining from more load."""
    curves = [curve for curve in load_curves(result) if curve.saturated]
    if not curves:
        tried = any(case.curve == "saturated" and case.is_invalid for case in result.cases)
        return f"No plan was driven to saturation{BELIEVED if tried else ''}"
    largest = max(curves, key=lambda curve: (curve.plan.devices, curve.plan.tp))
    return "; ".join(map(_saturates, [curves[0]] if largest is curves[0] else [curves[0], largest]))


def step_finding(result: Result) -> str:
    """How a decoding step changes from the base to the largest TP, and what all-reduces have to do with it."""
    rows = [row for row in step_rows(result) if not row.case.is_invalid]
    split = [row for row in rows if row.case.plan.tp > 1]
    if not split:
        tried = any(row.case.plan.tp > 1 for row in step_rows(result))
        return f"No plan splits a decoding step{BELIEVED if tried else ''}"
    row = max(split, key=lambda row: (row.load, row.case.plan.tp))
    base = next((other for other in rows if other.is_base and other.load == row.load), None)
    text = f"At {streams(row.load)} a decoding step takes "
    if base is not None and base is not row:
        text += f"{base.tpot_ms:.3g} ms with {base.case.plan}, "
    text += f"{row.tpot_ms:.3g} ms with {row.case.plan}"
    share = communication_share(row.case, result)
    return text if share is None else f"{text}; all-reduces explain at least {share:.1%} of it"


def _extremes(rows: list[ScalingRow]) -> tuple[ScalingRow, ScalingRow]:
    """Best and worst at equal work, of whole plans; others only where they stand alone.

    Weak scaling has more work for more devices, and a pinned plan less memory than it would have. Nor is a replay's
    gain, which is in latency, set beside those in throughput.
    """
    throughput = [row for row in rows if row.curve != "replay"]
    equal_work = [row for row in throughput if row.curve not in ("weak", "pinned")]
    ordered = sorted(equal_work or throughput or rows, key=lambda row: row.speedup.value if row.speedup else 0.0)
    return ordered[-1], ordered[0]


def _verdict(row: ScalingRow) -> str:
    assert row.speedup is not None
    value = f"{row.speedup.value:.2f}×"
    if row.unresolved:
        return f"no resolved gain ({value})"
    return f"a loss ({value})" if row.speedup.value < 1 else value


def _saturates(curve: LoadCurve) -> str:
    assert curve.saturated is not None
    rate = f"{curve.saturated.throughput.value:.0f} tok/s"
    if curve.still_gaining:
        return f"{curve.plan} still gains at {streams(curve.saturated.streams)}, the most tried ({rate})"
    return f"{curve.plan} saturates at {streams(curve.saturated.streams)} ({rate})"
