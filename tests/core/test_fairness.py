from __future__ import annotations

import pytest

from common.core.fairness import jain, slot_tokens
from common.core.record import RequestRecord


def record(slot: int | None, ends_ms: int, tokens: int = 4, begins_ms: int = 0) -> RequestRecord:
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
    records = [record(0, 40), record(1, 60), record(0, 80, begins_ms=40), record(1, 100, begins_ms=60)]
    assert slot_tokens(records, 2) == [8.0, 6.0]
    assert jain([8.0, 6.0]) == pytest.approx(0.98)


def test_what_a_slot_received_is_unknown_where_a_request_failed_or_has_no_slot() -> None:
    failed = record(0, 40)
    failed.error_kind = "reset"
    assert slot_tokens([failed, record(1, 40)], 2) is None
    assert slot_tokens([record(None, 40), record(1, 40)], 2) is None
    assert slot_tokens([record(0, 40)], 2) is None
