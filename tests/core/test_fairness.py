"""Slowdowns, Jain's index and starvation, planted and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.fairness import (
    class_numbers,
    fairness_numbers,
    jain,
    latencies_s,
    percentile,
    slot_tokens,
    slowdowns,
    starved,
)
from common.core.record import RequestRecord

BEGIN_NS = 7_000_000_000


def record(
    ttft_s: float, e2el_s: float | None = None, *, name: str = "short", late_s: float = 0.0, ok: bool = True
) -> RequestRecord:
    """A request with its first chunk and, where the whole time is given, its last; sent `late_s` too late."""
    chunks = [BEGIN_NS + round(seconds * 1e9) for seconds in (ttft_s, e2el_s) if seconds is not None]
    made = RequestRecord(0, name, 2, intended_ns=BEGIN_NS, sent_ns=BEGIN_NS + round(late_s * 1e9), chunk_ns=chunks)
    made.ended_ns = chunks[-1]
    if not ok:
        made.error_kind = "timeout"
    return made


def test_latency_counts_from_the_intended_send() -> None:
    late = record(0.3, 0.5, late_s=0.2)
    assert late.ttft_s == pytest.approx(0.1), "what the client's lateness would hide"
    assert latencies_s([late], "ttft") == pytest.approx([0.3])
    assert latencies_s([late], "e2el") == pytest.approx([0.5])


def test_a_failed_request_is_infinitely_slow_even_after_a_first_token() -> None:
    unsent = RequestRecord(0, "short", 2, error_kind="refused")
    assert latencies_s([record(0.1, ok=False), unsent], "ttft") == [math.inf, math.inf]


def test_slowdowns_by_hand() -> None:
    assert slowdowns([0.2, 0.4, math.inf], [0.1, 0.2, 0.9]) == pytest.approx([1.0, 2.0, math.inf])
    assert slowdowns([0.2], []) == [], "nothing to be held against"
    assert slowdowns([0.2], [0.1, math.inf, math.inf]) == [], "the median alone failed"
    assert slowdowns([], [0.1]) == []


@pytest.mark.parametrize(("together", "alone"), [([0.0], [1.0]), ([1.0], [-0.1]), ([-1.0], [])])
def test_times_that_cannot_be(together: list[float], alone: list[float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        slowdowns(together, alone)


@given(st.lists(st.floats(0.01, 1e6), min_size=2, max_size=50), st.floats(0.01, 100))
def test_jain_is_between_one_nth_and_one_and_blind_to_scale(shares: list[float], factor: float) -> None:
    found = jain(shares)
    assert found is not None
    assert 1 / len(shares) - 1e-9 <= found <= 1 + 1e-9
    assert jain([factor * share for share in shares]) == pytest.approx(found)


def test_starved_is_beyond_ten_times_the_p99_alone() -> None:
    alone = [0.1] * 99 + [0.2]
    limit_s = 10 * float(np.percentile(alone, 99))
    assert starved([limit_s * 0.999, limit_s * 1.001, math.inf], alone) == 2
    assert starved([], alone) == 0
    assert starved([0.1], []) is None
    assert starved([0.1], [0.1, math.inf]) is None


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=40), st.sampled_from([0, 50, 99, 100]))
def test_percentiles_are_numpys(values: list[float], percent: int) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))


def test_percentiles_with_failures() -> None:
    assert percentile([], 50) is None
    assert percentile([1.0, 2.0, math.inf], 50) == 2.0
    assert percentile([1.0, math.inf], 50) == math.inf, "between a number and a failure there is only failure"
    assert percentile([1.0] * 99 + [math.inf], 99) == math.inf
    assert percentile([1.0] * 200 + [math.inf], 99) == 1.0
    assert percentile([math.inf, math.inf], 99) == math.inf


def test_a_planted_slowdown_is_found() -> None:
    """Alone every request takes 0.1 s and 0.2 s; of ten beside others, one waits 5 s for its first token."""
    alone = [record(0.1, 0.2) for _ in range(10)]
    beside = [record(0.1, 0.2) for _ in range(9)] + [record(5.0, 5.1)]
    numbers = fairness_numbers([*beside, record(9.0, 9.5, name="long")], alone, "short")
    assert numbers["short_requests"] == numbers["alone_short_requests"] == 10
    assert numbers["short_failed"] == 0 and numbers["short_starved"] == 1
    assert numbers["alone_short_p50_ttft_ms"] == pytest.approx(100.0)
    assert numbers["short_p50_ttft_slowdown"] == pytest.approx(1.0)
    assert numbers["short_p50_e2el_slowdown"] == pytest.approx(1.0)
    # linear between the ninth and the tenth of ten: 0.91 of the way from 1 to 50, and from 1 to 25.5
    assert numbers["short_p99_ttft_slowdown"] == pytest.approx(1 + 0.91 * 49)
    assert numbers["short_p99_e2el_slowdown"] == pytest.approx(1 + 0.91 * 24.5)
    assert numbers["short_p99_ttft_over_alone"] == pytest.approx(1 + 0.91 * 49)
    shares = [1.0] * 9 + [0.2 / 5.1]
    assert numbers["short_jain"] == pytest.approx(sum(shares) ** 2 / (10 * sum(share**2 for share in shares)))
    assert not any(key.startswith("long") for key in numbers), "other classes are left out"


def test_a_standstill_of_a_running_answer_is_found() -> None:
    alone, beside = record(0.1, 0.15), record(0.1, 5.1)
    numbers = fairness_numbers([beside], [alone], "short")
    assert numbers["short_max_itl_ms"] == numbers["short_p99_itl_ms"] == pytest.approx(5000.0)
    assert numbers["short_max_itl_over_alone"] == pytest.approx(100.0)
    assert numbers["short_p99_ttft_over_alone"] == pytest.approx(1.0)
    assert "short_jain" not in numbers, "one request cannot be treated unevenly"


def test_failures_are_counted_and_never_make_the_tail_look_better() -> None:
    alone = [record(0.1, 0.2) for _ in range(10)]
    beside = [*(record(0.1, 0.2) for _ in range(8)), record(0.1, 0.1, ok=False), record(0.1, 0.1, ok=False)]
    numbers = fairness_numbers(beside, alone, "short")
    assert numbers["short_failed"] == 2 and numbers["short_starved"] == 2
    assert numbers["short_p50_ttft_slowdown"] == pytest.approx(1.0)
    assert not {"short_p99_ttft_ms", "short_p99_ttft_slowdown", "short_p99_ttft_over_alone"} & set(numbers)
    assert numbers["short_jain"] == pytest.approx(0.8), "eight of ten have all there is"
    json.loads(json.dumps(numbers, allow_nan=False))


def test_everything_failed_or_nothing_was_sent() -> None:
    failed = [record(0.1, ok=False)]
    assert fairness_numbers(failed, failed, "short") == {
        "short_requests": 1,
        "short_failed": 1,
        "alone_short_requests": 1,
        "alone_short_failed": 1,
    }
    assert class_numbers([], "short") == {"short_requests": 0, "short_failed": 0}


def slot_record(slot: int | None, ends_ms: int, tokens: int = 4, begins_ms: int = 0) -> RequestRecord:
    """Tokens evenly from begin to end."""
    step = (ends_ms - begins_ms) * 1_000_000 // tokens
    stamps = [begins_ms * 1_000_000 + step * (place + 1) for place in range(tokens)]
    made = RequestRecord(0, "default", tokens, sent_ns=begins_ms * 1_000_000, chunk_ns=stamps, slot=slot)
    made.ended_ns, made.output_tokens = stamps[-1], tokens
    return made


@pytest.mark.parametrize(
    ("shares", "index"),
    [([5, 5, 5, 5], 1.0), ([1, 0, 0, 0], 0.25), ([1, 3], 0.8), ([7], None), ([], None), ([0, 0], None)],
)
def test_jain_by_hand(shares: list[float], index: float | None) -> None:
    assert jain(shares) == (None if index is None else pytest.approx(index))


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        jain([1, -1])


def test_tokens_count_until_the_first_slot_is_idle() -> None:
    """Slot 0 ends its second turn at 80 ms and is idle; slot 1, half as fast, is halfway through its second."""
    records = [
        slot_record(0, 40),
        slot_record(1, 60),
        slot_record(0, 80, begins_ms=40),
        slot_record(1, 100, begins_ms=60),
    ]
    assert slot_tokens(records, 2) == [8.0, 6.0]
    assert jain([8.0, 6.0]) == pytest.approx(0.98)


def test_what_a_slot_received_is_unknown_where_a_request_failed_or_has_no_slot() -> None:
    failed = slot_record(0, 40)
    failed.error_kind = "reset"
    assert slot_tokens([failed, slot_record(1, 40)], 2) is None
    assert slot_tokens([slot_record(None, 40), slot_record(1, 40)], 2) is None
    assert slot_tokens([slot_record(0, 40)], 2) is None
