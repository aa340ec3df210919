"""Constants of a machine and engine from a few measured rows, what they leave unexplained, and how sure that is.

The logarithm of a rate is the step model's plus what the model misses: an offset, a slope and a drift in log2(devices)
of the group (one machine, engine and model) and of the case (one workload), and noise. Constants and misses are given
normal priors whose widths were learnt over published groups (`data/priors.json`), and the rows that were measured
decide together (Gaussian process regression: Rasmussen and Williams, 2006, chapter 2; the model's constants
linearised, and again around what was found). With no measured row the prior remains, with its full width.
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


@dataclass(frozen=True)
class Priors:
    """What is believed before anything is measured: centres and widths of the constants, widths of the misses.

    All in natural logarithms, ordered as `CONSTANTS` and `MISSES`.
    """

    centres: Floats
    widths: Floats
    misses: Floats

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Priors:
        """Read the stored form."""
        return cls(
            np.asarray([content["centres"][name] for name in CONSTANTS], dtype=np.float64),
            np.asarray([content["widths"][name] for name in CONSTANTS], dtype=np.float64),
            np.asarray([content["misses"][name] for name in MISSES], dtype=np.float64),
        )


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
    """For each row of a sample: the logarithm of the rate, its standard deviation; and the calibration's residual."""

    log_rates: Floats
    deviations: Floats
    constants: Floats
    residual: float | None
    """Median share by which the calibrated step model alone misses the calibrating rows; None without any."""


def predict(sample: Sample, priors: Priors) -> Prediction:
    """Calibrate on the rows that do and predict all."""
    constants = priors.centres.copy()
    known = sample.calibrates
    extra = _missing(sample, constants, priors.misses)
    for _ in range(ROUNDS):
        values, slopes = _linearised(constants, sample.rows)
        if not known.any():
            break
        spread = slopes[known] * priors.widths
        inner = spread @ spread.T + extra[np.ix_(known, known)]
        gap = sample.log_rates[known] - values[known] - slopes[known] @ (priors.centres - constants)
        weights = np.linalg.solve(inner, gap)
        found = priors.centres + priors.widths * (spread.T @ weights)
        constants = priors.centres + np.clip(found - priors.centres, -3 * priors.widths, 3 * priors.widths)
    values, slopes = _linearised(constants, sample.rows)
    return _posterior(sample, priors, constants, extra, (values, slopes))


def _posterior(
    sample: Sample, priors: Priors, constants: Floats, extra: Floats, linear: tuple[Floats, Floats]
) -> Prediction:
    values, slopes = linear
    known = sample.calibrates
    spread = slopes * priors.widths
    whole = spread @ spread.T + extra
    prior_mean = values + slopes @ (priors.centres - constants)
    if not known.any():
        return Prediction(prior_mean, np.sqrt(np.diag(whole)), constants, None)
    gain = np.linalg.solve(whole[np.ix_(known, known)], whole[known]).T
    mean = prior_mean + gain @ (sample.log_rates[known] - prior_mean[known])
    variance = np.diag(whole) - np.sum(gain * whole[:, known], axis=1)
    residual = float(np.median(np.abs(np.expm1(sample.log_rates[known] - values[known]))))
    return Prediction(mean, np.sqrt(np.maximum(variance, 1e-8)), constants, residual)


def _linearised(constants: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """The model's values, shape (rows,), and their slopes by each constant, shape (rows, constants)."""
    values = log_rate(constants, rows)
    slopes = [(log_rate(constants + STEP * unit, rows) - values) / STEP for unit in np.eye(len(CONSTANTS))]
    return values, np.stack(slopes, axis=1)


def _missing(sample: Sample, constants: Floats, misses: Floats) -> Floats:
    """Covariance of what the step model misses, shape (rows, rows)."""
    group_offset, group_slope, group_drift, case_offset, case_slope, case_drift, noise, starved = misses**2
    steps = np.log2(sample.devices) 
    slope = np.outer(steps, steps)
    drift = np.minimum.outer(steps, steps)
    same = sample.case[:, None] == sample.case[None, :]
    group = group_offset + group_slope * slope + group_drift * drift
    case = case_offset + case_slope * slope + case_drift * drift
    few = np.maximum(0, 1 - np.log2(sequences(constants, sample.rows)) / 5) * np.isinf(sample.rows.concurrency)
    result: Floats = group + same * case + np.diag(noise + starved * few)
    return result
