"""Whether the client can be believed: the rules, and the words for what they find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Word = Literal["VALID", "DOUBTFUL", "INVALID"]


@dataclass(frozen=True)
class Verdict:
    """What a case's numbers are worth as far as the client is concerned; `reasons` are empty where it is VALID."""

    word: Word
    reasons: list[str] = field(default_factory=list)
    remedy: str = ""


@dataclass(frozen=True)
class ClientCeiling:
    """What this client reached against a bare server on this machine.

    `streams` and `tokens_per_s` are the largest load at which it was right; `added_ttft_s` is what it added to the mean
    time to first token there; `flood_tokens_per_s` is what it takes in when the server never waits.
    """

    streams: int
    tokens_per_s: float
    added_ttft_s: float
    flood_tokens_per_s: float
