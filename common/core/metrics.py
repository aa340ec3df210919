"""The metrics of one repeat, named and computed as in `vllm bench serve` (`vllm/benchmarks/serve.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.core.record import RequestRecord

PERCENTILES = (50, 90, 95, 99)


def repeat_metrics(
    records: Sequence[RequestRecord], duration_s: float, slo_ms: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Flat numbers for one repeat; a metric without data is absent, never 0.

    Args:
        records: every request of the repeat, failed ones included.
        duration_s: from the first send to the last byte of the last answer.
        slo_ms: limits on ttft, tpot or e2el in milliseconds; a request is good when it meets all of them.
    """
    done = [record for record in records if record.ok]
    metrics: dict[str, float] = {
        "duration": duration_s,
        "num_prompts": len(records),
        "completed": len(done),
        "failed": len(records) - len(done),
    }
    if duration_s > 0 and slo_ms:
        good = sum(_meets(record, slo_ms) for record in done)
        metrics |= {"request_goodput": good / duration_s, "good_fraction": good / len(records)}
    if duration_s <= 0 or not done:
        return metrics
    input_tokens = sum(record.prompt_tokens or 0 for record in done)
    output_tokens = sum(record.output_tokens or 0 for record in done)
    metrics |= {
        "total_input_tokens": input_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": len(done) / duration_s,
        "output_throughput": output_tokens / duration_s,
        "total_token_throughput": (input_tokens + output_tokens) / duration_s,
    }
    latencies = _latencies_ms(done)
    for name, values in latencies.items():
        metrics |= distribution(name, values)
    chunks = sum(len(record.chunk_ns) for record in done)
    if chunks:
        metrics["tokens_per_chunk"] = output_tokens / chunks
    metrics["max_concurrent_requests"] = _most_in_flight(done)
    metrics["token_count_mismatches"] = sum(record.output_tokens != record.requested_tokens for record in done)
    recounted = [record for record in done if record.recounted_tokens is not None]
    if reported := sum(record.output_tokens or 0 for record in recounted):
        metrics["recounted_share"] = sum(record.recounted_tokens or 0 for record in recounted) / reported
    return metrics


def _latencies_ms(done: Sequence[RequestRecord]) -> dict[str, list[float]]:
    return {
        "ttft": [1e3 * value for record in done if (value := record.ttft_s) is not None],
        "tpot": [1e3 * value for record in done if (value := record.tpot_s) is not None],
        "itl": [1e3 * value for record in done for value in record.itl_s],
        "e2el": [1e3 * value for record in done if (value := record.e2el_s) is not None],
        "lateness": [
            (record.sent_ns - record.intended_ns) / 1e6
            for record in done
            if record.sent_ns is not None and record.intended_ns is not None
        ],
    }


def distribution(name: str, values_ms: Sequence[float]) -> dict[str, float]:
    """Mean, median, population standard deviation (as vLLM reports it) and percentiles of raw samples."""
    if not values_ms:
        return {}
    samples = np.asarray(values_ms)
    found = {f"mean_{name}_ms": float(samples.mean()), f"median_{name}_ms": float(np.median(samples))}
    if len(samples) > 1:
        found[f"std_{name}_ms"] = float(samples.std())
    for percentile in PERCENTILES:
        found[f"p{percentile}_{name}_ms"] = float(np.percentile(samples, percentile))
    return found


def _most_in_flight(done: Sequence[RequestRecord]) -> int:
    """The largest number of requests between their send and their last chunk at one moment."""
    events = [(record.sent_ns, 1) for record in done if record.sent_ns is not None and record.chunk_ns]
    events += [(record.chunk_ns[-1], -1) for record in done if record.sent_ns is not None and record.chunk_ns]
    ordered = np.asarray([change for _, change in sorted(events)], dtype=np.int64)
    return int(np.cumsum(ordered).max(initial=0))


def _meets(record: RequestRecord, slo_ms: Mapping[str, float]) -> bool:
    """vLLM counts a one-token answer's TPOT as 0, so it meets any limit on it."""
    values = {"ttft": record.ttft_s, "tpot": record.tpot_s or 0.0, "e2el": record.e2el_s}
    return all((value := values[name]) is not None and 1e3 * value <= limit for name, limit in slo_ms.items())
