"""Predict the larger plans of measured cases from their smaller ones, and say how far off that is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.predict.calibrate import Prediction, Priors, Sample, predict_all
from common.predict.cases import Measured, Skipped, columns

RESIDUAL_LIMIT = 0.10
LOW_WIDTH = 2.45  # how many times wider an interval of low confidence is
ONCE = 0.2
"""Of the serial share that a single device and a larger plan show, what is a cost of splitting at all, paid once."""


@dataclass(frozen=True)
class Predicted:
    """One predicted row; rates are in the case's metric, latencies as their inverse."""

    id: str
    group: str
    plan: str
    devices: int
    measured: float
    predicted: float
    low: float
    high: float
    relative_scaling_error: float
    """Predicted over measured speed-up, less 1; both have the same base, so this is also the error of the rate."""
    confidence: str
    """`normal`, or `low` with the reasons."""
    kinds: tuple[str, ...]
    amdahl_error: float | None
    """The same error of a two-point Amdahl fit; None where the case has fewer than two calibrating device counts."""


def evaluate(
    measured: Sequence[Measured], calibrate_devices: Collection[int], priors: Priors
) -> tuple[list[Predicted], list[Skipped]]:
    """Predict every row whose device count does not calibrate, in groups that have a row that does.

    Returns the predictions, and the rows of groups that have none.
    """
    groups: dict[str, list[Measured]] = {}
    for row in measured:
        groups.setdefault(row.group, []).append(row)
    eligible: list[list[Measured]] = []
    outside: list[Skipped] = []
    wanted = " or ".join(str(count) for count in sorted(calibrate_devices))
    for name, group in groups.items():
        known = [row.devices in calibrate_devices for row in group]
        if not any(known):
            reason = f"its group has no usable row on {wanted} devices to calibrate with"
            outside += [Skipped(row.id, reason, name) for row in group]
        elif not all(known):
            eligible.append(group)
    if not eligible:
        return [], outside
    samples = [sample_of(group, calibrate_devices) for group in eligible]
    made: list[Predicted] = []
    for group, sample, found in zip(eligible, samples, predict_all(samples, priors), strict=True):
        made += _of_group(group, sample, found, priors.interval)
    return made, outside


def sample_of(group: Sequence[Measured], calibrate_devices: Collection[int]) -> Sample:
    """The rows of one group as columns; those with these device counts calibrate."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.id for row in group))}
    straight, reach = [], []
    for row in group:
        own = [other for other in group if other.id == row.id and other.devices in calibrate_devices]
        known = row.devices in calibrate_devices
        fitted = paid_once(own, row) if not known else None
        most = max((other.devices for other in own), default=row.devices)
        straight.append(np.nan if fitted is None else np.log(fitted))
        reach.append(abs(np.log2(row.devices / most)))
    return Sample(
        rows=columns(group),
        log_rates=np.log([row.rate for row in group]),
        case=np.asarray([numbers[row.id] for row in group]),
        devices=np.asarray([row.devices for row in group], dtype=np.float64),
        calibrates=np.asarray([row.devices in calibrate_devices for row in group]),
        straight=np.asarray(straight),
        reach=np.asarray(reach),
    )


def _of_group(group: Sequence[Measured], sample: Sample, found: Prediction, interval: float) -> list[Predicted]:
    known = sample.calibrates
    calibrating = [row for row, is_known in zip(group, known, strict=True) if is_known]
    return [
        _row(row, calibrating, found, position, interval) for position, row in enumerate(group) if not known[position]
    ]


def _row(
    row: Measured, calibrating: Sequence[Measured], found: Prediction, position: int, interval: float
) -> Predicted:
    straight = amdahl([other for other in calibrating if other.id == row.id], row)
    reasons = doubts(row, calibrating, found.residual)
    margin = interval * float(found.deviations[position]) * (LOW_WIDTH if reasons else 1)
    predicted = float(np.exp(found.log_rates[position]))
    return Predicted(
        id=row.id,
        group=row.group,
        plan=row.plan,
        devices=row.devices,
        measured=row.rate,
        predicted=predicted,
        low=predicted * float(np.exp(-margin)),
        high=predicted * float(np.exp(margin)),
        relative_scaling_error=predicted / row.rate - 1,
        confidence=f"low: {'; '.join(reasons)}" if reasons else "normal",
        kinds=row.kinds,
        amdahl_error=None if straight is None else straight / row.rate - 1,
    )


def doubts(row: Measured, calibrating: Sequence[Measured], residual: float | None) -> list[str]:
    """Why a prediction deserves low confidence; empty where nothing speaks against it."""
    said = [f"{', '.join(row.assumed)} not in the source: assumed"] if row.assumed else []
    if residual is not None and residual > RESIDUAL_LIMIT:
        said.append(f"the model misses the calibrating rows by {residual:.0%}")
    if all(other.id != row.id for other in calibrating):
        said.append("no calibrating row of this workload")
    if all(other.devices == 1 for other in calibrating):
        said.append("only single devices calibrate, which says nothing of what splitting costs")
    if "PCIe" in row.kinds:
        said.append("devices talk over PCIe and its bandwidth was not measured")
    if "EP" in row.kinds and all("EP" not in other.kinds for other in calibrating):
        said.append("no throughput claim: experts are spread, and no such row calibrates")
    return said


def amdahl(own: Iterable[Measured], row: Measured) -> float | None:
    """The rate that a case's smallest and largest calibrating rows imply: time = a + b / devices (Amdahl, 1967).

    Neither a nor b is below 0; None where the case calibrates with fewer than two device counts.
    """
    points = _two_points(own, row)
    if points is None:
        return None
    few, many = points
    wanted = row.devices / few.devices
    fixed = min(max(_serial(few, many), 0.0), 1.0)
    return few.rate / (fixed + (1 - fixed) / wanted)


def paid_once(own: Iterable[Measured], row: Measured) -> float | None:
    """The same with a cost that is paid once, however many devices share the work: time = a + b / devices + c.

    One device has no such cost (c = 0), and two points cannot tell c from a. Of the serial share that they show, `ONCE`
    is taken for c, and so is all that makes the larger plan slower than one device. The time is that of the larger
    point, less what its parallel share b gains from there. Without a single device, c is only what makes it slower.
    None where the case calibrates with fewer than two device counts, and where the larger gains more than its devices:
    memory was short, and the form says nothing.
    """
    points = _two_points(own, row)
    if points is None or _serial(*points) < 0:
        return None
    few, many = points
    more, wanted = many.devices / few.devices, row.devices / few.devices
    fixed = min(_serial(few, many) * (1 - ONCE if few.devices == 1 else 1), 1.0)
    return few.rate / (few.rate / many.rate - (1 - fixed) * (1 / more - 1 / wanted))


def _two_points(own: Iterable[Measured], row: Measured) -> tuple[Measured, Measured] | None:
    """A case's rows on fewest and most devices, of the row's kind of plan first; None if they are on equally many."""
    by_devices: dict[int, Measured] = {}
    for other in sorted(own, key=lambda one: one.kinds != row.kinds):  # rows of the same kind of plan first
        by_devices.setdefault(other.devices, other)
    if len(by_devices) < 2:
        return None
    return by_devices[min(by_devices)], by_devices[max(by_devices)]


def _serial(few: Measured, many: Measured) -> float:
    """The share of the time on few devices that more of them do not shorten; above 1 where they are slower."""
    more = many.devices / few.devices
    return (few.rate / many.rate - 1 / more) / (1 - 1 / more)


def summary(rows: Sequence[Predicted]) -> list[dict[str, Any]]:
    """Errors per device count and kind of plan, beside those of the Amdahl fit on the rows that allow one."""
    kinds = ("all", "TP", "PP", "DP", "MoE", "PCIe")
    lines = []
    for devices in sorted({row.devices for row in rows}):
        for kind in kinds:
            chosen = [row for row in rows if row.devices == devices and (kind == "all" or kind in row.kinds)]
            if chosen:
                lines.append({"devices": devices, "kind": kind} | _line(chosen))
    return lines


def _line(rows: Sequence[Predicted]) -> dict[str, Any]:
    line: dict[str, Any] = {"n": len(rows), "groups": len({row.group for row in rows})}
    line |= _spread("", [row.relative_scaling_error for row in rows])
    line["inside"] = float(np.mean([row.low <= row.measured <= row.high for row in rows]))
    line["median_half_width"] = float(np.median([(row.high - row.low) / 2 / row.predicted for row in rows]))
    fitted = [row for row in rows if row.amdahl_error is not None]
    line["amdahl_n"] = len(fitted)
    if fitted:
        line |= _spread("amdahl_", [row.amdahl_error for row in fitted if row.amdahl_error is not None])
        line |= _spread("same_rows_", [row.relative_scaling_error for row in fitted])
        line["of_amdahl"] = line["same_rows_median"] / max(line["amdahl_median"], 1e-12)
    return line


def _spread(prefix: str, errors: Sequence[float]) -> dict[str, float]:
    sizes = np.abs(errors)
    return {f"{prefix}median": float(np.median(sizes)), f"{prefix}p90": float(np.quantile(sizes, 0.9))}


def document(rows: Sequence[Predicted], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """What is written: rows, those refused, and the summary."""
    fields = ("id", "group", "plan", "devices", "measured", "predicted", "low", "high", "relative_scaling_error")
    return {
        "rows": [{name: getattr(row, name) for name in (*fields, "confidence")} for row in rows],
        "skipped": [{"id": one.id, "reason": one.reason} for one in skipped],
        "summary": summary(rows),
    }


def refused(
    skipped: Sequence[Skipped], measured: Sequence[Measured], calibrate_devices: Collection[int]
) -> list[Skipped]:
    """What could not be read, but for groups that are known to have no calibrating row: those are not asked for."""
    calibrated = {row.group for row in measured if row.devices in calibrate_devices}
    outside = {row.group for row in measured} - calibrated
    return [one for one in skipped if one.group not in outside]
