"""Requests recorded elsewhere: somebody's own prompts, or only lengths and times, for which prompts are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.core.workload import FIRST_PLAIN_TOKEN_ID, RecordedWorkload, Request

_BLOCKS, _OWN = 0, 1  # two families of random token ids that never meet


@dataclass(frozen=True)
class RecordedRequest:
    """One request of a recording; `prompt` is None where only its length was recorded.

    `blocks` number the blocks of such a prompt: equal numbers are equal tokens, so that prompts share what they
    shared when they were recorded.
    """

    input_tokens: int
    output_tokens: int
    prompt: str | tuple[int, ...] | None = field(default=None, repr=False)
    at_s: float | None = None
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recording:
    """Requests in the order of their file; those that cannot be sent are counted in `left_out`, by reason.

    `notes` are sentences that belong beside every number measured with it.
    """

    form: str  # sharegpt, jsonl or trace
    sha256: str
    entries: tuple[RecordedRequest, ...]
    vocab_size: int
    block_tokens: int = 512
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("a recording needs a request")
        if self.vocab_size <= FIRST_PLAIN_TOKEN_ID:
            raise ValueError(f"a vocabulary of {self.vocab_size} is too small for synthetic prompts")

    @property
    def input_tokens(self) -> int:
        """Mean prompt length, rounded."""
        return max(1, round(sum(entry.input_tokens for entry in self.entries) / len(self.entries)))

    @property
    def output_tokens(self) -> int:
        """Mean output length, rounded."""
        return max(1, round(sum(entry.output_tokens for entry in self.entries) / len(self.entries)))

    @property
    def timed(self) -> bool:
        """Whether it says when its requests came, and so can be replayed."""
        return all(entry.at_s is not None for entry in self.entries)

    @property
    def verbatim(self) -> bool:
        """Whether prompts are sent as they stand in the file, and so are the same whenever they are sent."""
        return any(entry.prompt is not None for entry in self.entries)

    @property
    def span_s(self) -> float:
        """Seconds from the first request to the last; 0 without times."""
        times = [entry.at_s for entry in self.entries if entry.at_s is not None]
        return max(times) - min(times) if times else 0.0

    def described(self, requests: int) -> RecordedWorkload:
        """What a result says of so many of its requests."""
        return RecordedWorkload(self.form, self.sha256, requests, self.input_tokens, self.output_tokens)

    def generate(self, requests: int, seed: int) -> list[Request]:
        """Some of its requests, in the order of the file; the same seed gives the same ones on every machine.

        The file is dealt like cards, sorted by length: seeds that follow each other get requests of nearly the same
        lengths and no prompt in common, as long as the file has enough. One that is asked for more than it has is
        gone through again from where the seed begins. As many as it has are all of it, whatever the seed.
        """
        blocks: dict[int, list[int]] = {}
        chosen = [self.entries[place] for place in _dealt(self.entries, requests, seed)]
        return [
            Request(index, self._prompt(entry, index, seed, blocks), entry.output_tokens, at_s=entry.at_s)
            for index, entry in enumerate(chosen)
        ]

    def warm_up(self, requests: int, output_tokens: int, seed: int) -> list[Request]:
        """Requests of its prompt lengths with made-up prompts and at most so many output tokens."""
        made_up = tuple(
            replace(entry, prompt=None, blocks=(), output_tokens=min(output_tokens, entry.output_tokens))
            for entry in self.entries
        )
        return replace(self, entries=made_up).generate(requests, seed)

    def beginning(self, requests: int, seconds: float) -> Recording:
        """The part until either limit is reached; the first request is always in it."""
        first_s = self.entries[0].at_s or 0.0
        kept = [entry for entry in self.entries[:requests] if (entry.at_s or 0.0) - first_s <= seconds]
        return replace(self, entries=tuple(kept))

    def _prompt(
        self, entry: RecordedRequest, index: int, seed: int, blocks: dict[int, list[int]]
    ) -> str | tuple[int, ...]:
        if entry.prompt is not None:
            return entry.prompt
        tokens: list[int] = []
        for number in entry.blocks:
            if number not in blocks:
                blocks[number] = self._tokens(self.block_tokens, (seed, _BLOCKS, number))
            tokens += blocks[number]
        missing = entry.input_tokens - len(tokens)
        tokens += self._tokens(max(0, missing), (seed, _OWN, index))
        return tuple(tokens[: entry.input_tokens])

    def _tokens(self, count: int, seed: Sequence[int]) -> list[int]:
        ids: list[int] = np.random.default_rng(seed).integers(FIRST_PLAIN_TOKEN_ID, self.vocab_size, count).tolist()
        return ids


def _dealt(entries: Sequence[RecordedRequest], count: int, seed: int) -> list[int]:
    """Places of `count` entries: one out of each of `count` groups whose answers and prompts are of similar length."""
    hands = len(entries) // count
    if hands == 0:
        first = seed * count % len(entries)
        return [(first + step) % len(entries) for step in range(count)]
    by_answer = sorted(range(hands * count), key=lambda place: entries[place].output_tokens)
    stripe = hands * math.isqrt(count)  # of similar answers; in each, groups of similar prompts
    stripes = (by_answer[at : at + stripe] for at in range(0, len(by_answer), stripe))
    ordered = [place for part in stripes for place in sorted(part, key=lambda place: entries[place].input_tokens)]
    groups = np.random.default_rng(0).permuted(np.reshape(ordered, (count, hands)), axis=1)
    return sorted(groups[:, seed % hands].tolist())
