"""Learn the priors: how constants and misses are spread over groups of measured cases.

Maximises how well the larger plans of each group are predicted from its smaller ones, as in use: the likelihood under
Student's t (outliers are many in published tables) and the mean absolute error, less the distance from priors that
were written by hand from micro-benchmarks. The step model is run anew only a few times and a straight line in between.
Offline, a minute for sixty groups: `data/priors.json` keeps what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from common.predict.calibrate import MISSES, Line, Priors, linearised
from common.predict.cases import Measured
from common.predict.evaluate import sample_of
from common.predict.step import CONSTANTS, Floats

BY_HAND = Priors(
    centres=np.log([0.75, 0.5, 13.0, 2.5, 18.0, 5.0, 1.1, 1.5, 0.7, 1.1, 1.0]),
    widths=np.array([0.25, 0.25, 0.7, 0.6, 0.7, 0.7, 0.4, 0.7, 0.3, 0.2, 0.15]),
    pcie_links=2.5,
    pcie_growth=-0.1,
    misses=np.array([0.2, 0.02, 0.05, 0.07, 0.02, 0.02, 0.03, 0.5]),
    case_constants=0.4,
    scatter=0.5,
    own=0.1,
    own_least=0.2,
    interval=1.45,
)
"""Priors that no group was learnt from: GEMM and all-reduce micro-benchmarks, overheads of vLLM's and TensorRT-LLM's
steps as published by others, everything else by judgement."""

DEGREES = 3.0  # of freedom of Student's t
LARGEST = 0.5  # an error beyond this counts no more
SMALLEST_STEP = 2e-3
LINEARISATIONS = 3
STRENGTH = 1 / 60  # of the priors by hand against one group


@dataclass(frozen=True)
class _Scale:
    """How far each learnt number may reasonably lie from the one by hand."""

    values: Floats

    @classmethod
    def usual(cls) -> _Scale:
        centres = np.full(len(CONSTANTS), 0.5)
        centres[[CONSTANTS.index(name) for name in ("memory", "compute", "attention")]] = 0.15
        centres[[CONSTANTS.index(name) for name in ("sync_growth", "links_growth")]] = 0.2
        count = len(CONSTANTS)
        spreads = [np.full(count, 0.7), np.full(len(MISSES) + 1, 1.0), [0.8, 0.5]]
        return cls(np.concatenate([centres, [0.1], *spreads]))


def learn(measured: Sequence[Measured], calibrate_devices: Collection[int], rounds: int = 8) -> Priors:
    """Priors from all groups that have rows to calibrate with and rows to predict.

    Raises:
        ValueError: there is no such group.
    """
    from scipy.optimize import minimize  # a third of a second, which predicting does without

    groups: dict[str, list[Measured]] = {}
    for row in measured:
        groups.setdefault(row.group, []).append(row)
    samples = [sample_of(group, calibrate_devices) for group in groups.values()]
    samples = [sample for sample in samples if sample.calibrates.any() and not sample.calibrates.all()]
    if not samples:
        raise ValueError("no group has both rows that calibrate and rows to predict")
    start, scale = pack(BY_HAND), _Scale.usual().values

    bounds = list(zip(start - 2.5 * scale, start + 2.5 * scale, strict=True))
    learnt = start
    for _ in range(LINEARISATIONS):
        lines = linearised(samples, unpack(learnt))  # kept while the priors move: what costs time

        def objective(packed: Floats, lines: Sequence[Line] = lines) -> float:
            far = float(np.sum(((packed - start) / scale) ** 2))
            return loss(lines, unpack(packed)) + STRENGTH * far

        def with_slopes(packed: Floats, objective: Callable[[Floats], float] = objective) -> tuple[float, Floats]:
            value = objective(packed)
            units = np.eye(len(packed)) * SMALLEST_STEP
            return value, np.array([(objective(packed + unit) - value) / SMALLEST_STEP for unit in units])

        options = {"maxiter": rounds, "maxfun": 2 * rounds}
        learnt = minimize(with_slopes, learnt, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return unpack(learnt)


def loss(lines: Sequence[Line], priors: Priors) -> float:
    """Mean over rows, groups weighted by the root of their size: half the t deviance and eight times the error."""
    total = weight = 0.0
    for line in lines:
        wanted = ~line.sample.calibrates
        mean, deviations = line.posterior(priors)
        errors, deviations = (mean - line.sample.log_rates)[wanted], deviations[wanted]
        surprise = np.log(deviations) + (DEGREES + 1) / 2 * np.log1p((errors / deviations) ** 2 / DEGREES)
        each = 1 / np.sqrt(len(errors))
        total += each * float(np.sum(0.5 * surprise + 8 * np.minimum(np.abs(errors), LARGEST)))
        weight += each * len(errors)
    return total / weight


def pack(priors: Priors) -> Floats:
    """All learnt numbers in one vector, positive ones as logarithms."""
    single = [priors.case_constants, priors.pcie_links, priors.scatter]
    positive = np.concatenate([priors.widths, priors.misses, single])
    return np.concatenate([priors.centres, [priors.pcie_growth], np.log(positive)])


def unpack(packed: Floats) -> Priors:
    """The priors that `pack` made a vector of."""
    count = len(CONSTANTS)
    rest = np.exp(packed[count + 1 :])
    case_constants, pcie_links, scatter = (float(value) for value in rest[-3:])
    return Priors(
        centres=packed[:count],
        widths=rest[:count],
        misses=rest[count:-3],
        case_constants=case_constants,
        pcie_links=pcie_links,
        pcie_growth=float(packed[count]),
        scatter=scatter,
        own=BY_HAND.own,
        own_least=BY_HAND.own_least,
        interval=BY_HAND.interval,
    )
