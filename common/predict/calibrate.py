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
SCALES = 2.0 ** np.arange(-1.5, 2.6, 0.5)
"""Factors on what the model misses that are weighed against each other for each group."""
FARTHEST = 3.0  # widths of the prior: no constant is believed farther out
PCIE_BYTES_S = 64e9  # links up to here are PCIe


@dataclass(frozen=True)
class Priors:
    """What is believed before anything is measured, in natural logarithms, ordered as `CONSTANTS` and `MISSES`."""

    centres: Floats
    widths: Floats
    pcie_links: float
    """How many times wider the prior of the links is over PCIe."""
    misses: Floats
    case_constants: float
    """How far the constants differ between cases of a group, in widths."""
    scatter: float
    """How far groups differ in how much the model misses of them: width of the logarithm of a common factor."""
    own: float
    """Error of a case's own two-point fit, for each doubling of the devices beyond its points."""
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
            misses=columns("misses", MISSES),
            case_constants=float(content["case_constants"]),
            scatter=float(content["scatter"]),
            own=float(content["own"]),
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
            "misses": named(self.misses, MISSES),
            "case_constants": round(self.case_constants, 4),
            "scatter": round(self.scatter, 4),
            "own": round(self.own, 4),
            "interval": self.interval,
        }

    def of(self, rows: Rows) -> tuple[Floats, Floats]:
        """Centres and widths of the constants for the engine and links of these rows, all of one group."""
        widths = self.widths.copy()
        if rows.link[0] <= PCIE_BYTES_S:
            widths[CONSTANTS.index("links")] *= self.pcie_links
        return self.centres, widths


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
    """Logarithm of the rate by a two-point fit to the case's own calibrating rows; not a number where there is none."""
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
class _Line:
    """The step model of one sample as a straight line around some constants."""

    sample: Sample
    constants: Floats
    values: Floats
    slopes: Floats
    """Shape (rows, constants)."""
    centres: Floats
    widths: Floats
    missed: Floats
    """Covariance of what the model misses, before the group's scale."""
    alike: Floats

    @property
    def mean(self) -> Floats:
        """What the priors expect of each row."""
        expected: Floats = self.values + self.slopes @ (self.centres - self.constants)
        return expected

    def covariance(self, scale: float = 1.0) -> Floats:
        """Covariance of the rows before any is measured."""
        spread = self.slopes * self.widths
        whole: Floats = (spread @ spread.T) * self.alike + scale**2 * self.missed
        return whole

    def pulled(self) -> Floats:
        """The constants that the calibrating rows and the priors agree on."""
        known = self.sample.calibrates
        if not known.any():
            return self.centres
        gap = (self.sample.log_rates - self.mean)[known]
        spread = (self.slopes * self.widths)[known]
        moved = spread.T @ np.linalg.solve(self.covariance()[np.ix_(known, known)], gap)
        result: Floats = self.centres + self.widths * np.clip(moved, -FARTHEST, FARTHEST)
        return result

    def posterior(self, scatter: float) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each row given the calibrating ones, over all scales of what is missed."""
        known = self.sample.calibrates
        if not known.any():
            return self.mean, np.sqrt(np.diag(self.covariance()))
        gap = (self.sample.log_rates - self.mean)[known]
        means, variances, weights = [], [], []
        for scale in SCALES:
            whole = self.covariance(scale)
            inner = whole[np.ix_(known, known)]
            gain = np.linalg.solve(inner, whole[known]).T
            means.append(self.mean + gain @ gap)
            variances.append(np.diag(whole) - np.sum(gain * whole[:, known], axis=1))
            surprise = gap @ np.linalg.solve(inner, gap) + np.linalg.slogdet(inner)[1]
            weights.append(-0.5 * (surprise + (np.log(scale) / scatter) ** 2))
        weight = np.exp(np.array(weights) - np.max(weights))
        weight /= weight.sum()
        mean = weight @ np.array(means)
        variance = weight @ (np.array(variances) + (np.array(means) - mean) ** 2)
        return mean, np.sqrt(np.maximum(variance, 1e-8))


def predict(sample: Sample, priors: Priors) -> Prediction:
    """Calibrate on the rows that do, and predict all."""
    return predict_all([sample], priors)[0]


def predict_all(samples: Sequence[Sample], priors: Priors) -> list[Prediction]:
    """The same for many samples, each by itself; the step model runs over all their rows at once."""
    whole = Rows.joined([sample.rows for sample in samples])
    places = np.repeat(np.arange(len(samples)), [len(sample.devices) for sample in samples])
    believed = [priors.of(sample.rows) for sample in samples]
    centres = np.stack([centre for centre, _ in believed])
    few = starvation(centres[places].T, whole)
    missed, alike = [], []
    for number, sample in enumerate(samples):
        steps = np.log2(sample.devices)
        missed.append(covariance(steps, sample.case, few[places == number], priors.misses**2))
        alike.append(1 + priors.case_constants**2 * (sample.case[:, None] == sample.case[None, :]))

    def lines(constants: Floats) -> list[_Line]:
        values, slopes = _linearised(constants[places].T, whole)
        return [
            _Line(
                sample=sample,
                constants=constants[number],
                values=values[places == number],
                slopes=slopes[places == number],
                centres=centres[number],
                widths=believed[number][1],
                missed=missed[number],
                alike=alike[number],
            )
            for number, sample in enumerate(samples)
        ]

    found = lines(centres)
    for _ in range(ROUNDS):
        found = lines(np.stack([line.pulled() for line in found]))
    return [
        Prediction(*_joined(line, priors), line.constants, _residual(line.sample, line.values)) for line in found
    ]


def _joined(line: _Line, priors: Priors) -> tuple[Floats, Floats]:
    """The model's mean and that of the case's own fit, weighed by their variances: they err in different ways."""
    mean, deviations = line.posterior(priors.scatter)
    there = np.isfinite(line.sample.straight)
    own = (priors.own * line.sample.reach) ** 2
    share = np.where(there, deviations**2 / (deviations**2 + np.maximum(own, 1e-8)), 0.0)
    return mean + share * np.where(there, line.sample.straight - mean, 0.0), deviations


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
    """The model's values, shape (rows,), and their slopes by each constant, shape (rows, constants).

    `constants` has the shape (constants, rows).
    """
    values = log_rate(constants, rows)
    slopes = [(log_rate(constants + STEP * unit[:, None], rows) - values) / STEP for unit in np.eye(len(CONSTANTS))]
    return values, np.stack(slopes, axis=1)


def _residual(sample: Sample, values: Floats) -> float | None:
    gaps = sample.log_rates - values
    misses: list[float] = []
    for case in np.unique(sample.case[sample.calibrates]):
        own = gaps[sample.calibrates & (sample.case == case)]
        if len(own) > 1:
            misses += np.abs(np.expm1(own[1:] - own[0])).tolist()
    return float(np.median(misses)) if misses else None
