"""Constants of a machine and engine from a few measured rows, what they leave unexplained, and how sure that is.

The logarithm of a rate is the step model's plus what the model misses: an offset, a slope and a drift in log2(devices)
of the group (one machine, engine and model) and of the case (one workload), and noise. Constants and misses are given
normal priors whose widths were learnt over published groups (`data/priors.json`), and the rows that were measured
decide together (Gaussian process regression: Rasmussen and Williams, 2006, chapter 2; the model linearised around the
constants, and again around what was found). With no measured row the prior remains, with its full width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
SCALES = np.array([0.5, 1.0, 2.0, 4.0])
"""Factors on what the model misses that are weighed against each other for each group."""
SHARPNESS = 4  # of the change from the model's mean to the two-point fit; 2 would weigh by variances
FARTHEST = 3.0  # widths of the prior: no constant is believed farther out
PCIE_BYTES_S = 64e9  # links up to here are PCIe


@dataclass(frozen=True)
class Priors:
    """What is believed before anything is measured, in natural logarithms, ordered as `CONSTANTS` and `MISSES`."""

    centres: Floats
    widths: Floats
    pcie_links: float
    """How many times wider the priors of the links are over PCIe."""
    pcie_growth: float
    """Added to the centre of the links' growth over PCIe: other machines share the bus otherwise than the table's."""
    misses: Floats
    case_constants: float
    """How far the constants differ between cases of a group, in widths."""
    scatter: float
    """How far groups differ in how much the model misses of them: width of the logarithm of a common factor."""
    own: float
    """Error of a case's own two-point fit, for each doubling of the devices beyond its points."""
    own_least: float
    """Its least weight beside the model: the two err in different ways, so their mean errs less."""
    interval: float
    """Half an interval in standard deviations, so that 80 % of held-out rows and more lie inside."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Priors:
        """Read the stored form."""

        def columns(name: str, order: tuple[str, ...]) -> Floats:
            return np.asarray([content[name][key] for key in order], dtype=np.float64)

        return cls(
            centres=columns("centres", CONSTANTS),
            widths=columns("widths", CONSTANTS),
            pcie_links=float(content["pcie_links"]),
            pcie_growth=float(content["pcie_growth"]),
            misses=columns("misses", MISSES),
            case_constants=float(content["case_constants"]),
            scatter=float(content["scatter"]),
            own=float(content["own"]),
            own_least=float(content["own_least"]),
            interval=float(content["interval"]),
        )

    def to_json(self) -> dict[str, Any]:
        """The stored form."""

        def named(values: Floats, order: tuple[str, ...]) -> dict[str, float]:
            return {name: round(float(value), 4) for name, value in zip(order, values, strict=True)}

        return {
            "centres": named(self.centres, CONSTANTS),
            "widths": named(self.widths, CONSTANTS),
            "pcie_links": round(self.pcie_links, 4),
            "pcie_growth": round(self.pcie_growth, 4),
            "misses": named(self.misses, MISSES),
            "case_constants": round(self.case_constants, 4),
            "scatter": round(self.scatter, 4),
            "own": round(self.own, 4),
            "own_least": round(self.own_least, 4),
            "interval": self.interval,
        }

    def of(self, rows: Rows) -> tuple[Floats, Floats]:
        """Centres and widths of the constants for the engine and links of these rows, all of one group."""
        if rows.link[0] > PCIE_BYTES_S:
            return self.centres, self.widths
        centres, widths = self.centres.copy(), self.widths.copy()
        growth = CONSTANTS.index("links_growth")
        widths[[CONSTANTS.index("links"), growth]] *= self.pcie_links
        centres[growth] += self.pcie_growth
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
    straight: Floats
    """Logarithm of the rate by a fit to two of the case's own calibrating rows; not a number where there is none."""
    reach: Floats
    """Doublings of the devices beyond the farther of these two points."""


@dataclass(frozen=True)
class Prediction:
    """For each row of a sample: the logarithm of the rate and its standard deviation; and how well it calibrated."""

    log_rates: Floats
    deviations: Floats
    constants: Floats
    residual: float | None
    """Median share by which the step model misses the ratios between calibrating rows of a case; None without any."""


@dataclass(frozen=True)
class Line:
    """The step model of one sample as a straight line around some constants."""

    sample: Sample
    constants: Floats
    values: Floats
    slopes: Floats
    """Shape (rows, constants)."""
    starved: Floats
    """What `starvation` says of each row."""

    def mean(self, priors: Priors) -> Floats:
        """What the priors expect of each row."""
        expected: Floats = self.values + self.slopes @ (priors.of(self.sample.rows)[0] - self.constants)
        return expected

    def covariances(self, priors: Priors, scales: Floats) -> Floats:
        """Covariance of the rows before any is measured, shape (scales, rows, rows)."""
        case = self.sample.case
        spread = self.slopes * priors.of(self.sample.rows)[1]
        same = case[:, None] == case[None, :]
        missed = covariance(np.log2(self.sample.devices), case, self.starved, priors.misses**2)
        squares = scales[:, None, None] ** 2
        whole: Floats = (spread @ spread.T) * (1 + priors.case_constants**2 * squares * same) + squares * missed
        return whole

    def pulled(self, priors: Priors) -> Floats:
        """The constants that the calibrating rows and the priors agree on."""
        centres, widths = priors.of(self.sample.rows)
        known = self.sample.calibrates
        if not known.any():
            return centres
        gap = (self.sample.log_rates - self.mean(priors))[known]
        whole = self.covariances(priors, np.ones(1))[0]
        moved = (self.slopes * widths)[known].T @ np.linalg.solve(whole[np.ix_(known, known)], gap)
        result: Floats = centres + widths * np.clip(moved, -FARTHEST, FARTHEST)
        return result

    def posterior(self, priors: Priors) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each row given the calibrating ones, over all scales of what is missed."""
        known, mean = self.sample.calibrates, self.mean(priors)
        if not known.any():
            return mean, np.sqrt(np.diag(self.covariances(priors, np.ones(1))[0]))
        gap = (self.sample.log_rates - mean)[known]
        whole = self.covariances(priors, SCALES)
        inner = whole[:, known][:, :, known]
        gain = np.linalg.solve(inner, whole[:, known]).transpose(0, 2, 1)
        means = mean + gain @ gap
        variances = np.diagonal(whole, axis1=1, axis2=2) - np.sum(gain * whole[:, :, known], axis=2)
        weights = _evidence(inner, gap) - 0.5 * (np.log(SCALES) / priors.scatter) ** 2
        weights = np.exp(weights - np.max(weights))
        weights /= weights.sum()
        found = weights @ means
        variance = weights @ (variances + (means - found) ** 2)
        return found, np.sqrt(np.maximum(variance, 1e-8))

    def joined(self, priors: Priors) -> tuple[Floats, Floats]:
        """The posterior; where the model is unsure of it, its mean gives way to the case's own two-point fit."""
        mean, deviations = self.posterior(priors)
        there = np.isfinite(self.sample.straight)
        straight = np.where(there, self.sample.straight, mean)
        own = np.maximum(priors.own * self.sample.reach, 1e-4)
        share = priors.own_least + (1 - priors.own_least) / (1 + (own / deviations) ** SHARPNESS)
        return mean + share * (straight - mean), deviations


def predict(sample: Sample, priors: Priors) -> Prediction:
    """Calibrate on the rows that do, and predict all."""
    return predict_all([sample], priors)[0]


def predict_all(samples: Sequence[Sample], priors: Priors) -> list[Prediction]:
    """The same for many samples, each by itself."""
    return [
        Prediction(*line.joined(priors), line.constants, _residual(line.sample, line.values))
        for line in linearised(samples, priors)
    ]


def linearised(samples: Sequence[Sample], priors: Priors) -> list[Line]:
    """The step model of each sample around the constants that it is calibrated to; runs over all rows at once."""
    whole = Rows.joined([sample.rows for sample in samples])
    ends = np.cumsum([len(sample.devices) for sample in samples])
    steps = np.vstack([np.zeros(len(CONSTANTS)), STEP * np.eye(len(CONSTANTS))])  # none, then one constant at a time
    each = Rows.joined([whole] * len(steps))

    def around(constants: Sequence[Floats]) -> list[Line]:
        columns = np.repeat(np.stack(constants, axis=1), np.diff(ends, prepend=0), axis=1)
        moved = columns[:, None, :] + steps.T[:, :, None]
        values, *stepped = np.split(log_rate(moved.reshape(len(CONSTANTS), -1), each), len(steps))
        slopes = (np.stack(stepped, axis=1) - values[:, None]) / STEP
        columns_of = [np.split(column, ends[:-1]) for column in (values, slopes, starvation(columns, whole))]
        parts = zip(samples, constants, *columns_of, strict=True)
        return [Line(*part) for part in parts]

    found = around([priors.of(sample.rows)[0] for sample in samples])
    for _ in range(ROUNDS):
        found = around([line.pulled(priors) for line in found])
    return found


def _evidence(inner: Floats, gap: Floats) -> Floats:
    """Logarithm of the likelihood of the calibrating rows under each covariance, but for a constant."""
    columns = np.broadcast_to(gap[:, None], (*inner.shape[:2], 1))
    explained = np.linalg.solve(inner, columns)[:, :, 0] @ gap
    result: Floats = -0.5 * (explained + np.linalg.slogdet(inner)[1])
    return result


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


def _residual(sample: Sample, values: Floats) -> float | None:
    gaps = sample.log_rates - values
    misses: list[float] = []
    for case in np.unique(sample.case[sample.calibrates]):
        own = gaps[sample.calibrates & (sample.case == case)]
        if len(own) > 1:
            misses += np.abs(np.expm1(own[1:] - own[0])).tolist()
    return float(np.median(misses)) if misses else None
