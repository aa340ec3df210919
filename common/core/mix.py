"""Requests of several classes in one workload, each class coming at times of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.core.arrivals import OpenLoop
from common.core.workload import FIRST_PLAIN_TOKEN_ID, Request

_TIMES, _PROMPTS = 0, 1  # two streams of random numbers for every class


@dataclass(frozen=True)
class RequestClass:
    """So many requests of one kind, spread over the time that the whole workload takes.

    Gaps are gamma-distributed with shape `burstiness` (1: Poisson), or all alike (`None`), as in `OpenLoop`. A lower
    `priority` is served earlier by an engine that schedules by it.
    """

    name: str
    requests: int
    input_tokens: int
    output_tokens: int
    burstiness: float | None = 1.0
    priority: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a class of requests needs a name")
        for field in ("requests", "input_tokens", "output_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} of class {self.name} must be 1 or more, not {getattr(self, field)}")


@dataclass(frozen=True)
class MixedWorkload:
    """Classes of requests that come within `seconds`, by the clock; the same seed makes the same requests.

    A class's times and prompts depend on the seed and on its own place and sizes alone: they are the same beside
    other classes and alone.
    """

    classes: tuple[RequestClass, ...]
    seconds: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be positive and finite, not {self.seconds}")
        if not self.classes:
            raise ValueError("a mix needs a class of requests")
        names = [one.name for one in self.classes]
        if len(set(names)) < len(names):
            raise ValueError(f"classes need names of their own, not {', '.join(names)}")

    @property
    def requests(self) -> int:
        """Requests of all classes."""
        return sum(one.requests for one in self.classes)

    @property
    def input_tokens(self) -> int:
        """Mean prompt length, rounded."""
        return max(1, round(sum(one.requests * one.input_tokens for one in self.classes) / self.requests))

    @property
    def output_tokens(self) -> int:
        """Mean output length, rounded."""
        return max(1, round(sum(one.requests * one.output_tokens for one in self.classes) / self.requests))

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest request, prompt and answer."""
        return max(one.input_tokens + one.output_tokens for one in self.classes)

    def reseeded(self, offset: int) -> MixedWorkload:
        """The same sizes with other times and prompts."""
        return replace(self, seed=self.seed + offset)

    def generate(self, vocab_size: int) -> list[Request]:
        """The requests in the order of their times, with random token ids: no prompt shares a prefix with another.

        Raises:
            ValueError: the vocabulary is too small for synthetic prompts.
        """
        if vocab_size <= FIRST_PLAIN_TOKEN_ID:
            raise ValueError(f"a vocabulary of {vocab_size} is too small for synthetic prompts")
        made = [request for place in range(len(self.classes)) for request in self._of_class(place, vocab_size)]
        ordered = sorted(made, key=lambda request: request.at_s or 0.0)
        return [replace(request, index=index) for index, request in enumerate(ordered)]

    def _of_class(self, place: int, vocab_size: int) -> list[Request]:
        one = self.classes[place]
        generator = np.random.default_rng((self.seed, place, _PROMPTS))
        ids = generator.integers(FIRST_PLAIN_TOKEN_ID, vocab_size, (one.requests, one.input_tokens))
        return [
            Request(0, tuple(prompt), one.output_tokens, one.name, at_s, one.priority)
            for prompt, at_s in zip(ids.tolist(), self._times_s(place), strict=True)
        ]

    def _times_s(self, place: int) -> list[float]:
        """One arrival more than there are requests, of which the last falls on the end and is left out.

        So gaps that are all alike also lie before the first and after the last request, and of Poisson arrivals,
        whose number is given, each is equally likely at any moment.
        """
        one = self.classes[place]
        arrivals = OpenLoop((one.requests + 1) / self.seconds, one.burstiness)
        seed = int(np.random.SeedSequence((self.seed, place, _TIMES)).generate_state(1)[0])
        times: list[float] = arrivals.schedule_s(one.requests + 1, seed)[:-1].tolist()
        return times


def only(requests: Sequence[Request], request_class: str) -> list[Request]:
    """The requests of one class, at the times and with the prompts that they have among the others.

    Raises:
        ValueError: there is none.
    """
    found = [request for request in requests if request.request_class == request_class]
    if not found:
        raise ValueError(f"no request is of class {request_class}")
    return found
