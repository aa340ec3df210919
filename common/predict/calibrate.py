"""Constants of a machine and engine from a few measured rows, what they leave unexplained, and how sure that is.

The logarithm of a rate is the step model's plus what the model misses: an offset, a slope and a drift in log2(devices)
of the group (one machine, engine and model) and of the case (one workload), and noise. Constants and misses are given
normal priors whose widths were learnt over published groups (`data/priors.json`), and the rows that were measured
decide together (Gaussian process regression: Rasmussen and Williams, 2006, chapter 2; the model linearised around the
constants, and again around what was found). With no measured row the prior remains, with its full width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.predict.hardware import DATA
from common.predict.step import CONSTANTS, Floats, Rows, log_rate, sequences

Flags = NDArray[np.bool_]
Index = NDArray[np.int64]

MISSES = ("group_offset", "group_slope", "group_drift", "case_offset", "case_slope", "case_drift", "noise", "starved")
ROUNDS = 3
STEP = 1e-3
FARTHEST = 3.0  # widths of the prior: no constant is believed farther out
PCIE_BYTES_S = 64e9  # links up to here are PCIe


@dataclass(frozen=True)
class Priors:
    """What is believed before anything is measured, in natural logarithms, ordered as `CONSTANTS` and `MISSES`."""

    centres: Floats
    compiled: Floats
    """Added to the centres where the engine schedules in compiled code."""
    young: Floats
    """Added where the platform's kernels are young."""
    widths: Floats
    pcie_links: float
    """How many times wider the prior of the links is over PCIe."""
    misses: Floats
    case_constants: float
    """How far the constants differ between cases of a group, in widths."""
    interval: float
    """Half an interval in standard deviations, so that 80 % of held-out rows and more lie inside."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Priors:
        """Read the stored form."""

        def columns(name: str, order: tuple[str, ...]) -> Floats:
            return np.asarray([content[name][key] for key in order], dtype=np.float64)

        return cls(
            centres=columns("centres", CONSTANTS),
            compiled=columns("compiled", CONSTANTS),
            young=columns("young", CONSTANTS),
            widths=columns("widths", CONSTANTS),
            pcie_links=float(content["pcie_links"]),
            misses=columns("misses", MISSES),
            case_constants=float(content["case_constants"]),
            interval=float(content["interval"]),
        )

    def to_json(self) -> dict[str, Any]:
        """The stored form."""

        def named(values: Floats, order: tuple[str, ...]) -> dict[str, float]:
            return {name: round(float(value), 4) for name, value in zip(order, values, strict=True)}

        return {
            "centres": named(self.centres, CONSTANTS),
            "compiled": named(self.compiled, CONSTANTS),
            "young": named(self.young, CONSTANTS),
            "widths": named(self.widths, CONSTANTS),
            "pcie_links": round(self.pcie_links, 4),
            "misses": named(self.misses, MISSES),
            "case_constants": round(self.case_constants, 4),
            "interval": self.interval,
        }

    def of(self, rows: Rows) -> tuple[Floats, Floats]:
        """Centres and widths of the constants for the engine and links of these rows, all of one group."""
        centres = self.centres + self.compiled * rows.compiled[0] + self.young * rows.young[0]
        widths = self.widths.copy()
        if rows.link[0] <= PCIE_BYTES_S:
            widths[CONSTANTS.index("links")] *= self.pcie_links
        return centres, widths


@cache
def stored_priors() -> Priors:
    """The priors that ship with the lab."""
    return Priors.from_json(json.loads((DATA / "priors.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Sample:
    """Rows of one group: what is measured of them, which workload they belong to, how many devices they use."""

    rows: Rows
    log_rates: Floats
    """Natural logarithms; only those of calibrating rows are looked at."""
    case: Index
    devices: Floats
    calibrates: Flags


@dataclass(frozen=True)
class Prediction:
    """For each row of a sample: the logarithm of the rate and its standard deviation; and how well it calibrated."""

    log_rates: Floats
    deviations: Floats
    constants: Floats
    residual: float | None
    """Median share by which the step model misses the ratios between calibrating rows of a case; None without any."""


def predict(sample: Sample, priors: Priors) -> Prediction:
    """Calibrate on the rows that do, and predict all."""
    centres, widths = priors.of(sample.rows)
    known = sample.calibrates
    both = np.ix_(known, known)
    steps = np.log2(sample.devices)
    missed = covariance(steps, sample.case, starvation(centres, sample.rows), priors.misses**2)
    alike = 1 + priors.case_constants**2 * (sample.case[:, None] == sample.case[None, :])
    constants = centres
    values, slopes = _linearised(constants, sample.rows)
    for _ in range(ROUNDS if known.any() else 0):
        spread = slopes[known] * widths
        gap = sample.log_rates[known] - values[known] - slopes[known] @ (centres - constants)
        pulled = spread.T @ np.linalg.solve((spread @ spread.T) * alike[both] + missed[both], gap)
        constants = centres + widths * np.clip(pulled, -FARTHEST, FARTHEST)
        values, slopes = _linearised(constants, sample.rows)
    spread = slopes * widths
    whole = (spread @ spread.T) * alike + missed
    mean = values + slopes @ (centres - constants)
    if not known.any():
        return Prediction(mean, np.sqrt(np.diag(whole)), constants, None)
    gain = np.linalg.solve(whole[both], whole[known]).T
    variance = np.diag(whole) - np.sum(gain * whole[:, known], axis=1)
    mean = mean + gain @ (sample.log_rates[known] - mean[known])
    return Prediction(mean, np.sqrt(np.maximum(variance, 1e-8)), constants, _residual(sample, values))


def starvation(constants: Floats, rows: Rows) -> Floats:
    """From 0 to 1 where the load is as much as fits: how near to a single sequence the KV cache's limit is."""
    near = np.clip(1 - np.log2(sequences(constants, rows)) / 5, 0, 1)
    result: Floats = np.where(np.isinf(rows.concurrency), near, 0.0)
    return result


def covariance(steps: Floats, case: Index, starved: Floats, variances: Floats) -> Floats:
    """Covariance of what the step model misses, shape (rows, rows); `variances` is ordered as `MISSES`.

    Args:
        steps: log2(devices) of each row.
        case: Number of each row's case.
        starved: What `starvation` says of each row.
        variances: Squares of the misses' widths.
    """
    group_offset, group_slope, group_drift, case_offset, case_slope, case_drift, noise, few = variances
    slope = np.outer(steps, steps)
    drift = np.minimum.outer(steps, steps)  # a random walk: what is missed at 2 devices is missed at 4 too
    same = case[:, None] == case[None, :]
    group = group_offset + group_slope * slope + group_drift * drift
    own = case_offset + case_slope * slope + case_drift * drift
    result: Floats = group + same * own + np.diag(noise + few * starved)
    return result


def _linearised(constants: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """The model's values, shape (rows,), and their slopes by each constant, shape (rows, constants)."""
    values = log_rate(constants, rows)
    slopes = [(log_rate(constants + STEP * unit, rows) - values) / STEP for unit in np.eye(len(CONSTANTS))]
    return values, np.stack(slopes, axis=1)


def _residual(sample: Sample, values: Floats) -> float | None:
    gaps = sample.log_rates - values
    misses: list[float] = []
    for case in np.unique(sample.case[sample.calibrates]):
        own = gaps[sample.calibrates & (sample.case == case)]
        if len(own) > 1:
            misses += np.abs(np.expm1(own[1:] - own[0])).tolist()
    return float(np.median(misses)) if misses else None
