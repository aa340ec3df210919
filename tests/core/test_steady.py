"""The steady window on answers whose timing is planted."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace

import pytest

from common.core.metrics import repeat_metrics
from common.core.record import RequestRecord
from common.core.steady import (
    Window,
    closed_loop_window,
    open_loop_window,
    slots_in_flight_share,
    steady_metrics,
    throughput_drift,
    tokens_between,
)
from common.core.workload import Request, staggered

TTFT_S, ITL_S, TOKENS = 0.050, 0.010, 20
TURN_S = TTFT_S + (TOKENS - 1) * ITL_S
MS = 1_000_000


def answer(request: Request, sent_s: float, itl_s: float = ITL_S) -> RequestRecord:
    chunk_ns = [round((sent_s + TTFT_S + token * itl_s) * 1e9) for token in range(request.output_tokens)]
    sent_ns = round(sent_s * 1e9)
    return RequestRecord(
        request.index,
        "default",
        request.output_tokens,
        intended_ns=sent_ns,
        sent_ns=sent_ns,
        chunk_ns=chunk_ns,
        ended_ns=chunk_ns[-1],
        output_tokens=request.output_tokens,
    )


def closed_loop(
    slots: int, turns: int, stagger: bool = True, itl_s: Callable[[float], float] = lambda _: ITL_S
) -> list[RequestRecord]:
    """Slots that draw from one queue; an answer's pace depends on when it was sent."""
    requests = [Request(index, (1,), TOKENS) for index in range(slots * turns)]
    if stagger:
        requests = staggered(requests, slots, seed=1)
    free = [0.0] * slots
    records = []
    for request in requests:
        sent_s = heapq.heappop(free)
        records.append(answer(request, sent_s, itl_s(sent_s)))
        heapq.heappush(free, (records[-1].ended_ns or 0) / 1e9)
    return records


def test_the_window_gives_the_rate_that_every_slot_has() -> None:
    records = closed_loop(8, 10)
    window = closed_loop_window(records, 8)
    assert window is not None
    metrics = steady_metrics(records, window)
    true_rate = 8 * TOKENS / TURN_S
    assert metrics["steady_output_throughput"] == pytest.approx(true_rate, rel=0.01)
    whole = repeat_metrics(records, max(record.ended_ns or 0 for record in records) / 1e9)
    assert whole["output_throughput"] < 0.97 * true_rate, "the whole repeat holds ramp and drain"
    assert metrics["steady_mean_ttft_ms"] == pytest.approx(50.0)
    assert metrics["steady_mean_tpot_ms"] == pytest.approx(10.0)
    assert abs(metrics["steady_drift"]) < 0.02


def test_the_window_lies_between_the_last_first_turn_and_the_first_idle_slot() -> None:
    records = closed_loop(4, 6)
    window = closed_loop_window(records, 4)
    assert window is not None
    assert window.begin_ns == max(record.ended_ns or 0 for record in records[:4])
    idle_ns = min(
        record.ended_ns or 0 for record in records if (record.ended_ns or 0) > max(r.sent_ns or 0 for r in records)
    )
    assert window.end_ns <= idle_ns
    in_flight = [
        sum((r.sent_ns or 0) <= at < (r.ended_ns or 0) for r in records)
        for at in range(window.begin_ns, window.end_ns, MS)
    ]
    assert min(in_flight) == 4, "no slot is idle inside"


@pytest.mark.parametrize(("turns", "present"), [(1, False), (2, False), (4, False), (5, True), (9, True)])
def test_fewer_than_three_turns_are_no_window(turns: int, present: bool) -> None:
    assert (closed_loop_window(closed_loop(8, turns), 8) is not None) is present


def test_staggered_slots_do_not_march_in_step() -> None:
    in_step, spread = closed_loop(8, 6, stagger=False), closed_loop(8, 6)
    assert len({record.sent_ns for record in in_step}) == 6
    assert len({record.sent_ns for record in spread}) > 30


def test_requests_that_were_never_sent_leave_no_window() -> None:
    records = closed_loop(4, 8)
    records[-1].sent_ns, records[-1].ended_ns = None, records[-2].ended_ns
    assert closed_loop_window(records, 4) is None
    assert closed_loop_window([], 4) is None
    assert closed_loop_window(closed_loop(4, 1), 16) is None


def test_failed_requests_give_no_tokens() -> None:
    records = closed_loop(4, 8)
    window = closed_loop_window(records, 4)
    assert window is not None
    before = steady_metrics(records, window)["steady_output_throughput"]
    for record in records[::4]:
        record.error_kind = "reset"
    assert steady_metrics(records, window)["steady_output_throughput"] == pytest.approx(0.75 * before, rel=0.1)


def test_a_planted_slowing_down_is_found() -> None:
    records = closed_loop(8, 20, itl_s=lambda sent_s: ITL_S * (1 + 0.05 * sent_s))
    window = closed_loop_window(records, 8)
    assert window is not None
    metrics = steady_metrics(records, window)
    assert -0.35 < metrics["steady_drift"] < -0.1
    assert throughput_drift([], window) is None


def test_few_requests_claim_no_drift() -> None:
    records = closed_loop(1, 8)
    window = closed_loop_window(records, 1)
    assert window is not None
    assert "steady_drift" not in steady_metrics(records, window)


def test_tokens_count_by_their_own_time() -> None:
    record = answer(Request(0, (1,), 4), 0.0)
    assert record.chunk_ns == [50 * MS, 60 * MS, 70 * MS, 80 * MS]
    assert tokens_between([record], 50 * MS, 70 * MS) == 2, "the first instant is outside, the last inside"
    pairs = replace(record, output_tokens=8)
    assert tokens_between([pairs], 0, 60 * MS) == 4
    assert tokens_between([], 0, 1) == 0


def test_an_open_loop_is_measured_from_the_intended_time() -> None:
    records = [answer(Request(index, (1,), TOKENS), 0.1 * index) for index in range(40)]
    for record in records:
        record.intended_ns = (record.sent_ns or 0) - 20 * MS
    window = open_loop_window(records)
    assert window == Window(round(TURN_S * 1e9) - 20 * MS, 3_900 * MS - 20 * MS)
    metrics = steady_metrics(records, window, open_loop=True)
    assert metrics["steady_mean_ttft_ms"] == pytest.approx(70.0)
    assert metrics["steady_mean_e2el_ms"] == pytest.approx(1e3 * TURN_S + 20)
    assert steady_metrics(records, window)["steady_mean_ttft_ms"] == pytest.approx(50.0)
    assert open_loop_window(records[:2]) is None
    assert open_loop_window([]) is None


def test_time_that_slots_spend_waiting_for_the_client_is_seen() -> None:
    records = closed_loop(4, 6)
    assert slots_in_flight_share(records, 4) == pytest.approx(1.0)
    assert slots_in_flight_share(records, 8) == pytest.approx(0.5)
    late = [answer(Request(index, (1,), TOKENS), index * (TURN_S + 0.060)) for index in range(10)]
    assert slots_in_flight_share(late, 1) == pytest.approx(TURN_S / (TURN_S + 0.060))
    assert slots_in_flight_share(records[:4], 4) is None
    assert slots_in_flight_share([], 4) is None


def test_staggering_keeps_prompts_and_every_later_request() -> None:
    requests = [Request(index, (index,), 32) for index in range(24)]
    spread = staggered(requests, 8, seed=3)
    assert [request.prompt for request in spread] == [request.prompt for request in requests]
    assert sorted(request.output_tokens for request in spread[:8]) == [4, 8, 12, 16, 20, 24, 28, 32]
    assert spread[8:] == requests[8:]
    assert staggered(requests, 8, seed=3) == spread != staggered(requests, 8, seed=4)
    assert staggered(requests, 1, seed=0) == requests
    assert [request.output_tokens for request in staggered(requests[:2], 64, seed=0)] != [32, 32]
    assert min(request.output_tokens for request in staggered(requests, 24, seed=0)) >= 1
