"""A workload: a seeded list of requests, the same for every plan that is compared on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

FIRST_PLAIN_TOKEN_ID = 1_000  # below it vocabularies keep special tokens and bare bytes


@dataclass(frozen=True)
class Request:
    """One request: its prompt as token ids or as text, and exactly how many tokens to generate.

    `at_s` is when a request comes that comes by the clock, in seconds after its workload's beginning. `priority` is
    vLLM's: a lower one is served earlier, by an engine that schedules by priority. With `batch` it is one request for
    several answers (`/v1/completions` takes a list of prompts), each of `output_tokens`; `prompt` then is not sent.
    """

    index: int
    prompt: tuple[int, ...] | str = field(repr=False)
    output_tokens: int
    request_class: str = "default"
    at_s: float | None = None
    priority: int = 0
    batch: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def requested_tokens(self) -> int:
        """Tokens that the answer will have, or all answers of a batch together."""
        return self.output_tokens * max(1, len(self.batch))


def as_one(requests: Sequence[Request]) -> Request:
    """The same prompts as one request.

    Raises:
        ValueError: no requests, prompts that are text, or answers of different lengths, which one request cannot ask.
    """
    batch = tuple(request.prompt for request in requests if not isinstance(request.prompt, str))
    lengths = {request.output_tokens for request in requests}
    if len(batch) < len(requests) or len(lengths) != 1:
        raise ValueError("a batch needs prompts of token ids, and answers of one length")
    return Request(0, (), lengths.pop(), "batch", batch=batch)


@dataclass(frozen=True)
class Workload:
    """Synthetic requests of fixed lengths with random token ids, so that no prompt shares a prefix with another.

    The first of each of `staggered` slots is shorter (see `staggered`); 0 leaves all alike.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    vocab_size: int
    seed: int = 0
    staggered: int = 0

    def __post_init__(self) -> None:
        for name in ("requests", "input_tokens", "output_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.vocab_size <= FIRST_PLAIN_TOKEN_ID:
            raise ValueError(f"a vocabulary of {self.vocab_size} is too small for synthetic prompts")

    def generate(self) -> list[Request]:
        """The requests; the same seed gives the same requests on every machine."""
        shape = (self.requests, self.input_tokens)
        ids = np.random.default_rng(self.seed).integers(FIRST_PLAIN_TOKEN_ID, self.vocab_size, shape)
        requests = [Request(index, tuple(row), self.output_tokens) for index, row in enumerate(ids.tolist())]
        return staggered(requests, self.staggered, self.seed) if self.staggered else requests

    def reseeded(self, offset: int) -> Workload:
        """The same sizes with other prompts: a repeat must not find its own prompts in a cache."""
        return replace(self, seed=self.seed + offset)


def staggered(requests: Sequence[Request], slots: int, seed: int) -> list[Request]:
    """The same requests, the first of every slot cut to a share of its output tokens: 1/slots, 2/slots, ... 1.

    Slots that begin together with answers of one length would march in step for ever: all prompts at once, then all
    tokens. Which slot gets which share depends on the seed.
    """
    shares = (np.random.default_rng(seed).permutation(slots) + 1) / slots
    return [
        replace(request, output_tokens=max(1, round(float(share) * request.output_tokens)))
        for request, share in zip(requests, shares, strict=False)
    ] + list(requests[slots:])


@dataclass(frozen=True)
class RecordedWorkload:
    """What a result says of requests that were read from a file: never a prompt, never a path.

    Token counts are means per request, as in `Workload`, rounded.
    """

    form: str  # sharegpt, jsonl or trace
    sha256: str
    requests: int
    input_tokens: int
    output_tokens: int
    seed: int = 0
    staggered: int = 0
