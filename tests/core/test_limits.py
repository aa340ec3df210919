"""Shares of requests within limits: exact from times, sound from percentiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.limits import LIMITED, RepeatTimes, RequestTimes, least_limit_ms, pooled
from common.core.metrics import PERCENTILES, distribution, repeat_metrics
from common.core.record import RequestRecord

MILLISECOND = 1_000_000


def record(index: int, ttft_ms: int, tpot_ms: int, tokens: int = 5) -> RequestRecord:
    chunks = [(ttft_ms + tpot_ms * place) * MILLISECOND for place in range(tokens)]
    return RequestRecord(index, "default", tokens, sent_ns=0, chunk_ns=chunks, output_tokens=tokens)


FAILED = RequestRecord(9, "default", 5, sent_ns=0, error_kind="timeout")


def kept(times: RequestTimes, failed: int = 0) -> RepeatTimes:
    """What a repeat keeps of these requests: percentiles of the answered ones."""
    answered = {name: values[np.isfinite(values)] for name, values in times.times_ms.items()}
    found = {name: distribution(name, values.tolist()) for name, values in answered.items()}
    percentiles = {name: {p: found[name][f"p{p}_{name}_ms"] for p in PERCENTILES} for name in times.times_ms}
    count = len(next(iter(answered.values())))
    return RepeatTimes(count + failed, count, percentiles)


def test_the_share_is_that_of_the_benchmark() -> None:
    records = [record(index, 10 * index, 5 * index) for index in range(1, 9)] + [record(8, 20, 99, tokens=1), FAILED]
    times = RequestTimes.of(records)
    for limits in ({"ttft": 40.0}, {"ttft": 60.0, "tpot": 15.0}, {"e2el": 100.0}, {"ttft": 20.0, "tpot": 1.0}):
        expected = repeat_metrics(records, 1.0, limits)["good_fraction"]
        found = times.share(limits)
        assert found.low == found.high == expected and found.requests == 10
    assert times.share(dict.fromkeys(LIMITED, 1000000000000.0)).high == 0.9, "a failed request meets no limit"


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=70), st.integers(0, 5), st.data()
)
def test_bounds_from_percentiles_hold_the_truth(pairs: list[tuple[int, int]], failed: int, data: st.DataObject) -> None:
    times = RequestTimes(
        {"ttft": np.array([a for a, _ in pairs], float), "tpot": np.array([b for _, b in pairs], float)}
    )
    limits = {"ttft": data.draw(st.integers(0, 61)) + 0.5, "tpot": data.draw(st.integers(0, 61)) + 0.5}
    truth = times.share(limits).low * len(pairs) / (len(pairs) + failed)
    found = kept(times, failed).share(limits)
    assert found.low <= truth + 1e-12
    assert found.high >= truth - 1e-12
    assert kept(times, failed).share({"ttft": 100.0, "tpot": 100.0}).low == pytest.approx(
        len(pairs) / (len(pairs) + failed)
    ), "limits that nobody misses are shown to be kept"


def test_a_few_requests_that_all_kept_a_limit_are_seen_to() -> None:
    """p99 of four requests lies below the slowest: without looking further only three would be known."""
    times = RequestTimes({"ttft": np.array([1.0, 2.0, 3.0, 4.0])})
    assert kept(times).share({"ttft": 4.2}).low == 1.0
    assert kept(times).share({"ttft": 3.9}).low == 0.75


def test_the_limits_that_were_held_are_exact_and_bound_others() -> None:
    part = RepeatTimes(100, 100, {}, {"ttft": 500.0, "tpot": 50.0}, good=0.93)
    same, laxer = part.share({"ttft": 500.0, "tpot": 50.0}), part.share({"ttft": 900.0})
    assert (same.low, same.high) == (0.93, 0.93)
    assert (laxer.low, laxer.high) == (0.93, 1.0)
    stricter = part.share({"ttft": 400.0, "tpot": 50.0, "e2el": 900.0})
    assert (stricter.low, stricter.high) == (0.0, 0.93)
    assert part.share({"ttft": 400.0, "tpot": 60.0}).low == 0.0, "stricter in one, laxer in the other: nothing known"


def test_nothing_answered_meets_nothing() -> None:
    assert RepeatTimes(5, 0, {}).share({"ttft": 1e9}).high == 0.0
    with pytest.raises(ValueError, match="no repeats"):
        pooled([], {"ttft": 1.0})


def test_repeats_are_pooled_by_their_requests() -> None:
    fast, slow = (RequestTimes({"ttft": np.full(count, value)}) for count, value in ((30, 1.0), (10, 9.0)))
    assert pooled([fast, slow], {"ttft": 5.0}).low == 0.75


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 1.0]))
def test_the_strictest_limit_is_strictest(values: list[int], wanted: float) -> None:
    parts = [RequestTimes({"ttft": np.array(values, float)})]
    limit = least_limit_ms(parts, {"ttft": 0.0}, "ttft", wanted)
    assert limit is not None
    assert pooled(parts, {"ttft": limit}).low >= wanted
    assert pooled(parts, {"ttft": math.nextafter(limit, 0)}).low < wanted


def test_no_limit_helps_where_the_others_are_missed() -> None:
    parts = [RequestTimes({"ttft": np.array([1.0, 2.0]), "tpot": np.array([9.0, 9.0])})]
    assert least_limit_ms(parts, {"ttft": 1.0, "tpot": 5.0}, "ttft", 0.9) is None
