"""Predict every group with priors that were learnt without it: what a reader's own machine can expect."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from common.predict.cases import Measured, Skipped
from common.predict.evaluate import Predicted, evaluate
from common.predict.learn import learn


def evaluate_held_out(
    measured: Sequence[Measured], calibrate_devices: Collection[int], folds: int, rounds: int = 8
) -> tuple[list[Predicted], list[Skipped]]:
    """The same as `evaluate`, in so many folds: each fold's groups are predicted by priors learnt from all the others.

    Groups go to folds in the order of their names, one after another. `rounds` are those of `learn`; some seconds for
    ten groups and five folds, minutes for sixty.

    Raises:
        ValueError: fewer than two folds, more folds than groups, or nothing to learn from outside a fold.
    """
    names = sorted({row.group for row in measured})
    if not 2 <= folds <= len(names):
        raise ValueError(f"{folds} folds of {len(names)} groups: from 2 folds to as many as there are groups")
    made: list[Predicted] = []
    outside: list[Skipped] = []
    for fold in range(folds):
        held = set(names[fold::folds])
        priors = learn([row for row in measured if row.group not in held], calibrate_devices, rounds)
        rows, without = evaluate([row for row in measured if row.group in held], calibrate_devices, priors)
        made, outside = [*made, *rows], [*outside, *without]
    return made, outside
