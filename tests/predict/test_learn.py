from __future__ import annotations

import numpy as np
import pytest

from common.predict.calibrate import linearised, stored_priors
from common.predict.cases import read_cases
from common.predict.evaluate import evaluate, sample_of, summary
from common.predict.hardware import DATA
from common.predict.learn import BY_HAND, learn, loss, pack, unpack

PUBLIC = DATA / "public_cases.json"


def test_priors_by_hand_predict_groups_that_nothing_was_learnt_from() -> None:
    """No group has a part in these priors, so every group of the table is left out."""
    measured, _ = read_cases(PUBLIC)
    predicted, _ = evaluate(measured, (1, 2), BY_HAND)
    for devices, median, p90 in ((4, 0.08, 0.20), (8, 0.15, 0.35)):
        line = next(one for one in summary(predicted) if (one["devices"], one["kind"]) == (devices, "all"))
        assert line["median"] <= median
        assert line["p90"] <= p90
        assert line["inside"] >= 0.8


def test_what_is_learnt_predicts_its_groups_better_and_stays_near_the_priors_by_hand() -> None:
    measured, _ = read_cases(PUBLIC)
    some = [row for row in measured if row.group.startswith("argonne/H100") or "Mixtral" in row.group]
    samples = [sample_of([row for row in some if row.group == group], (1, 2)) for group in {row.group for row in some}]
    learnt = learn(some, (1, 2), rounds=1)
    assert loss(linearised(samples, learnt), learnt) < loss(linearised(samples, BY_HAND), BY_HAND)
    assert np.max(np.abs(learnt.centres - BY_HAND.centres)) < 1.3


def test_a_vector_holds_all_that_is_learnt() -> None:
    again = unpack(pack(stored_priors()))
    for name in (
        "centres",
        "widths",
        "misses",
        "case_constants",
        "pcie_links",
        "pcie_growth",
        "scatter",
        "own",
    ):
        assert getattr(again, name) == pytest.approx(getattr(stored_priors(), name))


def test_nothing_to_learn_from_is_refused() -> None:
    measured, _ = read_cases(PUBLIC)
    with pytest.raises(ValueError, match="no group"):
        learn([row for row in measured if row.devices < 4], (1, 2))
