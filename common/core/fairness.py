"""How evenly identical clients are served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.core.record import RequestRecord


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index (sum x)^2 / (n * sum x^2): 1 where all are equal, 1/n where one has everything.

    R. Jain, D. Chiu, W. Hawe, DEC-TR-301 (1984). `None` for fewer than two shares, and where nobody has any.

    Raises:
        ValueError: a negative share.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.size and values.min() < 0:
        raise ValueError(f"a share is 0 or more, not {values.min()}")
    if len(values) < 2 or not values.any():
        return None
    return float(values.sum() ** 2 / (len(values) * np.square(values).sum()))


def slot_tokens(records: Sequence[RequestRecord], slots: int) -> list[float] | None:
    """Output tokens that each slot of a closed loop received before the first of them had nothing left to send.

    A request's tokens are spread evenly over its chunks. `None` where a request was never sent or has no slot, or
    failed: what its slot would have received is then not known.
    """
    ends = [record.ended_ns for record in records if record.ended_ns is not None]
    whole = len(ends) == len(records) and all(record.ok and record.slot is not None for record in records)
    if not whole or len(records) < slots:
        return None
    until_ns = sorted(ends)[-slots]
    received = [0.0] * slots
    for record in records:
        if record.slot is not None and record.chunk_ns:
            came = sum(stamp_ns <= until_ns for stamp_ns in record.chunk_ns)
            received[record.slot] += (record.output_tokens or 0) * came / len(record.chunk_ns)
    return received
