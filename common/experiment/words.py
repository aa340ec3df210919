"""Prompts in plain words, for a server whose vocabulary is not known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.core.workload import Request, Workload
from common.experiment.load_spec import Lengths
from common.load.payload import chat_text

ENOUGH = 1_000_000  # numbers that words are drawn by; nothing of a vocabulary


@dataclass(frozen=True)
class Words(Lengths):
    """Requests of `input_tokens` words, each about one token; the server's `usage` says how many they were.

    `salt` keeps prompts apart that one seed would make alike: what a server has seen it may have cached, whether in
    the case before or in the run before. A result has it as its workload's seed.
    """

    vocab_size: int = ENOUGH
    salt: int = 0

    def described(self, requests: int) -> Workload:
        """What a result says of so many such requests."""
        return replace(super().described(requests), seed=self.salt)

    def generate(self, requests: int, seed: int) -> list[Request]:
        """So many requests; another seed gives other prompts."""
        made = super().generate(requests, seed)
        return [replace(one, prompt=chat_text(one.prompt)) for one in made if not isinstance(one.prompt, str)]
