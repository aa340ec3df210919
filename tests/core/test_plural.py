"""A count and its noun agree."""

from __future__ import annotations

import pytest

from common.core.plural import plural


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 requests"), (1, "1 request"), (1.0, "1 request"), (2, "2 requests"), (1e6, "1,000,000 requests")],
)
def test_a_count_and_its_noun_agree(count: float, words: str) -> None:
    assert plural(count, "request") == words
