"""The steady part of a repeat: after every slot's first turn, before the first idle slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.core.metrics import distribution
from common.core.record import RequestRecord

FEWEST_TURNS = 3  # a shorter window is as long as its own edges
FEWEST_REQUESTS = 16  # sent in a window: fewer turns of one stream say little about a drift
DRIFT_BINS = 10

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A time, in nanoseconds of `time.perf_counter_ns`."""

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / 1e9


def closed_loop_window(records: Sequence[RequestRecord], concurrency: int) -> Window | None:
    """From the end of the last slot's first turn to the end of the first turn that no other follows.

    `None` where that holds fewer than three turns of every slot, or where requests were never sent. Slots draw from
    one queue in order, so the first `concurrency` records are the slots' first turns, and the first slot to go idle
    is the one that ends when all but `concurrency - 1` requests have ended.
    """
    ends = [record.ended_ns for record in records if record.sent_ns is not None and record.ended_ns is not None]
    if len(ends) < len(records) or len(records) <= concurrency:
        return None
    window = Window(max(ends[:concurrency]), sorted(ends)[-concurrency])
    turns = sum(window.begin_ns < end <= window.end_ns for end in ends)
    return window if turns >= FEWEST_TURNS * concurrency else None


def open_loop_window(records: Sequence[RequestRecord]) -> Window | None:
    """From the longest answer's duration after the first intended send to the last intended send.

    By then as many requests are under way as there will be. `None` where fewer than 16 sends are left of the schedule.
    """
    intended = [record.intended_ns for record in records if record.intended_ns is not None]
    durations = [record.e2el_s for record in records if record.e2el_s is not None]
    if not intended or not durations:
        return None
    window = Window(min(intended) + round(max(durations) * 1e9), max(intended))
    return window if sum(start >= window.begin_ns for start in intended) >= FEWEST_REQUESTS else None


def slots_in_flight_share(records: Sequence[RequestRecord], concurrency: int) -> float | None:
    """Requests in flight over slots, averaged until the last send: what the client takes between two turns is lost.

    `None` where nothing was sent after the first turns.
    """
    spans = [(record.sent_ns, record.ended_ns) for record in records]
    known = [(begin, end) for begin, end in spans if begin is not None and end is not None]
    if len(known) <= concurrency:
        return None
    first, last = min(begin for begin, _ in known), max(begin for begin, _ in known)
    busy = sum(min(end, last) - begin for begin, end in known)
    return busy / (concurrency * (last - first)) if last > first else None


def steady_metrics(records: Sequence[RequestRecord], window: Window, open_loop: bool = False) -> dict[str, float]:
    """The metrics of a window, named as those of the whole repeat with `steady_` before.

    Tokens count by their own time; latencies are those of the requests sent inside, followed to their end, in an open
    loop from the intended send time: a client that sends late must not make the server look fast.
    """
    inside = [
        record
        for record in records
        if record.ok and (start := _start(record, open_loop)) is not None and window.begin_ns <= start < window.end_ns
    ]
    found: dict[str, float] = {
        "steady_duration": window.seconds,
        "steady_requests": len(inside),
        "steady_output_throughput": tokens_between(records, window.begin_ns, window.end_ns) / window.seconds,
    }
    origins = [(record, _start(record, open_loop) or 0) for record in inside if record.chunk_ns]
    latencies = {
        "ttft": [(record.chunk_ns[0] - origin) / 1e6 for record, origin in origins],
        "e2el": [(record.chunk_ns[-1] - origin) / 1e6 for record, origin in origins],
        "tpot": [1e3 * value for record in inside if (value := record.tpot_s) is not None],
        "itl": [1e3 * value for record in inside for value in record.itl_s],
    }
    for name, values in latencies.items():
        found |= {f"steady_{key}": value for key, value in distribution(name, values).items()}
    drift = throughput_drift(records, window)
    if drift is not None and len(inside) >= FEWEST_REQUESTS:
        found["steady_drift"] = drift
    return found


def tokens_between(records: Sequence[RequestRecord], begin_ns: int, end_ns: int) -> float:
    """Output tokens whose chunk arrived in the half-open time (begin, end], failed requests left out.

    Where a chunk holds several tokens, a request's tokens are spread evenly over its chunks.
    """
    times, tokens = _token_times(records)
    return float(tokens[(times > begin_ns) & (times <= end_ns)].sum())


def throughput_drift(records: Sequence[RequestRecord], window: Window) -> float | None:
    """By what share of its mean the throughput rises over the window: the least-squares line through ten bins.

    `None` without tokens.
    """
    times, tokens = _token_times(records)
    counts, _ = np.histogram(times, DRIFT_BINS, (window.begin_ns, window.end_ns), weights=tokens)
    if not counts.sum():
        return None
    slope, _ = np.polyfit(np.arange(DRIFT_BINS), counts, 1)
    return float(slope * DRIFT_BINS / counts.mean())


def _token_times(records: Sequence[RequestRecord]) -> tuple[Array, Array]:
    """Arrival and tokens of every chunk of every complete answer; both of shape (chunks,)."""
    done = [record for record in records if record.ok and record.chunk_ns]
    if not done:
        return np.empty(0), np.empty(0)
    times = np.concatenate([np.asarray(record.chunk_ns, dtype=np.float64) for record in done])
    weights = [(record.output_tokens or 0) / len(record.chunk_ns) for record in done]
    return times, np.repeat(weights, [len(record.chunk_ns) for record in done])


def _start(record: RequestRecord, open_loop: bool) -> int | None:
    return record.intended_ns if open_loop else record.sent_ns
