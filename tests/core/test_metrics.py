"""Metrics against records made by hand, and against vLLM's formulas written out a second time."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest

from common.core.metrics import PERCENTILES, repeat_metrics
from common.core.record import RequestRecord

MS = 1_000_000


def record(
    index: int, sent_ms: int | None, chunks_ms: list[int], tokens: int | None = None, **other: int | str
) -> RequestRecord:
    """A request that asked for as many tokens as it got chunks; stamps in milliseconds."""
    made = RequestRecord(
        index,
        "default",
        requested_tokens=len(chunks_ms),
        sent_ns=None if sent_ms is None else sent_ms * MS,
        chunk_ns=[at * MS for at in chunks_ms],
        prompt_tokens=10,
        output_tokens=len(chunks_ms) if tokens is None else tokens,
    )
    for name, value in other.items():
        setattr(made, name, value)
    return made


def failed(index: int, sent_ms: int = 0, chunks_ms: tuple[int, ...] = ()) -> RequestRecord:
    return RequestRecord(
        index,
        "default",
        4,
        sent_ns=sent_ms * MS,
        chunk_ns=[at * MS for at in chunks_ms],
        error_kind="http",
        error="500",
    )


TWO = [record(0, 0, [100, 120, 150, 200]), record(1, 50, [250, 300])]


def test_a_hand_made_repeat() -> None:
    metrics = repeat_metrics([*TWO, failed(2)], duration_s=0.5)
    assert metrics["num_prompts"] == 3
    assert metrics["completed"] == 2
    assert metrics["failed"] == 1
    assert metrics["duration"] == 0.5
    assert metrics["total_input_tokens"] == 20
    assert metrics["total_output_tokens"] == 6
    assert metrics["request_throughput"] == pytest.approx(4)
    assert metrics["output_throughput"] == pytest.approx(12)
    assert metrics["total_token_throughput"] == pytest.approx(52)
    # TTFT 100 and 200; E2EL 200 and 250; TPOT 100/3 and 50; gaps 20, 30, 50 and 50
    assert metrics["mean_ttft_ms"] == pytest.approx(150)
    assert metrics["std_ttft_ms"] == pytest.approx(50), "population standard deviation, as vLLM"
    assert metrics["median_e2el_ms"] == pytest.approx(225)
    assert metrics["mean_tpot_ms"] == pytest.approx((100 / 3 + 50) / 2)
    assert metrics["mean_itl_ms"] == pytest.approx(37.5)
    assert metrics["median_itl_ms"] == pytest.approx(40)
    assert metrics["p90_ttft_ms"] == pytest.approx(190), "linear between the samples"
    assert metrics["tokens_per_chunk"] == 1.0
    assert metrics["token_count_mismatches"] == 0


def vllm_says(records: list[RequestRecord], duration_s: float) -> dict[str, float]:
    """`calculate_metrics` of vllm/benchmarks/serve.py, formula by formula, on plain lists."""
    ok = [r for r in records if r.error_kind is None]
    ttfts, tpots, itls, e2els = [], [], [], []
    for r in ok:
        assert r.sent_ns is not None
        assert r.output_tokens is not None
        stamps = [(at - r.sent_ns) * 1e-6 for at in r.chunk_ns]
        ttft, latency = stamps[0], stamps[-1]
        ttfts.append(ttft)
        e2els.append(latency)
        itls += [later - earlier for earlier, later in pairwise(stamps)]
        if r.output_tokens > 1:
            tpots.append((latency - ttft) / (r.output_tokens - 1))
    outputs = [r.output_tokens or 0 for r in ok]
    said = {"output_throughput": sum(outputs) / duration_s, "request_throughput": len(ok) / duration_s}
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("itl", itls), ("e2el", e2els)):
        said |= {
            f"mean_{name}_ms": statistics.fmean(values),
            f"median_{name}_ms": statistics.median(values),
            f"std_{name}_ms": statistics.pstdev(values),
        }
        said |= {f"p{p}_{name}_ms": linear_percentile(values, p) for p in PERCENTILES}
    return said


def linear_percentile(values: list[float], percentile: float) -> float:
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percentile / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@pytest.mark.parametrize("seed", range(4))
def test_random_repeats_agree_with_vllms_formulas(seed: int) -> None:
    dice = random.Random(seed)
    records: list[RequestRecord] = []
    for index in range(120):
        if dice.random() < 0.1:
            records.append(failed(index, dice.randrange(100), (200, 300)))
            continue
        sent = dice.randrange(10_000)
        stamps, at = [], sent
        for _ in range(dice.randrange(1, 30)):
            at += dice.randrange(1, 90)
            stamps.append(at)
        records.append(record(index, sent, stamps, tokens=len(stamps) * dice.choice([1, 1, 2])))
    metrics = repeat_metrics(records, 12.5)
    expected = vllm_says(records, 12.5)
    assert expected
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-9), name


def test_all_failed_gives_counts_and_no_latency() -> None:
    assert repeat_metrics([failed(0), failed(1)], 1.0) == {
        "duration": 1.0,
        "num_prompts": 2,
        "completed": 0,
        "failed": 2,
    }


def test_no_records_and_no_time_give_no_rates() -> None:
    assert repeat_metrics([], 0.0) == {"duration": 0.0, "num_prompts": 0, "completed": 0, "failed": 0}
    assert "output_throughput" not in repeat_metrics(TWO, 0.0)


def test_what_cannot_be_said_is_absent_and_not_zero() -> None:
    metrics = repeat_metrics([record(0, 0, [100])], 1.0)
    assert metrics["mean_ttft_ms"] == 100
    assert not [name for name in metrics if "tpot" in name or "itl" in name], "one token has neither"
    assert "std_ttft_ms" not in metrics, "one sample has no spread"
    assert "request_goodput" not in metrics, "no SLO, no goodput"
    assert not [name for name in metrics if "lateness" in name], "a closed loop intends no time"
    assert not any(math.isnan(value) for value in metrics.values())


def test_a_failed_request_adds_no_latency_and_no_tokens() -> None:
    half = failed(2, 0, (9_000, 10_000))
    half.output_tokens = 2
    with_it, without = repeat_metrics([*TWO, half], 1.0), repeat_metrics(TWO, 1.0)
    for name in without:
        if name not in ("num_prompts", "failed"):
            assert with_it[name] == without[name], name


def test_chunks_of_two_tokens_and_counts_that_differ_are_reported() -> None:
    pairs = record(0, 0, [10, 20], tokens=4)
    pairs.requested_tokens = 4
    metrics = repeat_metrics([pairs, record(1, 0, [10, 20], tokens=1)], 1.0)
    assert metrics["tokens_per_chunk"] == pytest.approx(5 / 4)
    assert metrics["token_count_mismatches"] == 1


def test_lateness_is_sent_minus_intended() -> None:
    late = record(0, 107, [200, 210], intended_ns=100 * MS)
    prompt = record(1, 200, [210, 220], intended_ns=200 * MS)
    metrics = repeat_metrics([late, prompt], 1.0)
    assert metrics["mean_lateness_ms"] == pytest.approx(3.5)
    assert metrics["p50_lateness_ms"] == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("slo_ms", "good"),
    [
        ({"ttft": 100.0}, 1),
        ({"ttft": 99.9}, 0),
        ({"ttft": 200.0}, 2),
        ({"ttft": 200.0, "tpot": 40.0}, 1),
        ({"tpot": 50.0}, 2),
        ({"e2el": 249.0}, 1),
        ({"ttft": 100.0, "e2el": 199.0}, 0),
    ],
)
def test_goodput_counts_requests_that_met_every_limit(slo_ms: dict[str, float], good: int) -> None:
    metrics = repeat_metrics([*TWO, failed(2), failed(3)], 0.5, slo_ms)
    assert metrics["request_goodput"] == pytest.approx(good / 0.5)
    assert metrics["good_fraction"] == pytest.approx(good / 4), "failures count against it"


def test_one_token_meets_any_tpot_as_in_vllm() -> None:
    assert repeat_metrics([record(0, 0, [100])], 1.0, {"tpot": 0.001})["good_fraction"] == 1.0


def test_no_good_request_among_failures_only_is_a_fraction_of_zero() -> None:
    """`good_fraction` has data here, all of it bad: absent would read as 'no SLO was given'."""
    metrics = repeat_metrics([failed(0), failed(1)], 1.0, {"ttft": 100.0})
    assert metrics["good_fraction"] == 0.0
    assert metrics["request_goodput"] == 0.0


def test_a_record_without_its_stamps_knows_no_latency() -> None:
    unsent = record(0, None, [100, 200])
    silent = record(0, 0, [])
    for nothing in (unsent, silent):
        assert (nothing.ttft_s, nothing.e2el_s, nothing.tpot_s) == (None, None, None)
    assert silent.itl_s == []
    unknown = record(0, 0, [100, 200])
    unknown.output_tokens = None
    assert unknown.tpot_s is None
