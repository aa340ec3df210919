"""What one entry of a workload file says: the forms that are understood, and what makes an entry wrong or unusable."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from common.core.recording import RecordedRequest

FEWEST_TOKENS = 4  # of a ShareGPT prompt and of its answer (`vllm/benchmarks/datasets/datasets.py:is_valid_sequence`)
CHARACTERS_PER_TOKEN = 64  # beyond this many for each token of the context, a text is too long without being counted
OUTPUT_NAMES = ("output_tokens", "max_tokens", "output_len")
ASKING, ANSWERING = ("human", "user"), ("gpt", "assistant")

Content = Mapping[str, Any]
Outcome = RecordedRequest | str  # a request, or why it is left out


class EntryError(ValueError):
    """An entry makes no sense; the message continues a sentence that begins with its place."""


@dataclass(frozen=True)
class Limits:
    """What the engine takes, and what a file may leave open.

    `wanted` requests are enough: reading stops there. `output_tokens` are asked for where a prompt does not say how
    many it wants. `count` gives a text's tokens as the server counts them.
    """

    wanted: int
    context_tokens: int
    vocab_size: int
    output_tokens: int
    count: Callable[[str], int]

    @property
    def too_long(self) -> str:
        """Why a request that does not fit is left out."""
        return f"longer than the context of {self.context_tokens} tokens"

    def fitting(self, request: RecordedRequest) -> Outcome:
        """The request, unless it is empty or does not fit."""
        if request.input_tokens == 0 or request.output_tokens == 0:
            return "empty"
        return self.too_long if request.input_tokens + request.output_tokens > self.context_tokens else request

    def tokens(self, text: str) -> int | None:
        """Tokens of a text; None where it is too long to be worth counting."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise EntryError("has half of a surrogate pair in its text: write it as UTF-8") from None
        return None if len(text) > CHARACTERS_PER_TOKEN * self.context_tokens else self.count(text)


@dataclass(frozen=True)
class ShareGpt:
    """A conversation: the first human turn is the prompt, the length of the first answer to it is what is asked for."""

    limits: Limits
    name = "sharegpt"
    block_tokens = 1  # prompts are sent as they are

    def read(self, content: Content) -> Outcome:
        """One conversation as a request.

        Raises:
            EntryError: it is not a conversation.
        """
        turns = need(content, "conversations")
        if not isinstance(turns, list):
            raise EntryError("has no list of turns in 'conversations': correct it, or take it out")
        prompt, answer = _first_exchange(turns)
        if prompt is None or answer is None:
            return "without a first answer"
        lengths = self.limits.tokens(prompt), self.limits.tokens(answer)
        if lengths[0] is None or lengths[1] is None:
            return self.limits.too_long
        if min(lengths[0], lengths[1]) < FEWEST_TOKENS:
            return f"with a prompt or answer of under {FEWEST_TOKENS} tokens"
        return self.limits.fitting(RecordedRequest(lengths[0], lengths[1], prompt))


@dataclass(frozen=True)
class Prompts:
    """A prompt as text or as token ids, and perhaps how many tokens to generate."""

    limits: Limits
    name = "jsonl"
    block_tokens = 1

    def read(self, content: Content) -> Outcome:
        """One prompt as a request.

        Raises:
            EntryError: it is no prompt, or not one of this model.
        """
        prompt = need(content, "prompt")
        named = [name for name in OUTPUT_NAMES if content.get(name) is not None]
        output_tokens = length(content, named[0]) if named else self.limits.output_tokens
        if isinstance(prompt, str):
            tokens = self.limits.tokens(prompt)
            if tokens is None:
                return self.limits.too_long
            return self.limits.fitting(RecordedRequest(tokens if prompt else 0, output_tokens, prompt))
        ids = self._ids(prompt)
        return self.limits.fitting(RecordedRequest(len(ids), output_tokens, ids))

    def _ids(self, prompt: object) -> tuple[int, ...]:
        if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
            raise EntryError("has a 'prompt' that is neither text nor a list of token ids: give one of them")
        wrong = next((token for token in prompt if not 0 <= token < self.limits.vocab_size), None)
        if wrong is not None:
            raise EntryError(
                f"has the token id {str(wrong)[:20]}, outside the model's vocabulary of {self.limits.vocab_size}: the"
                " file was made for another model; give text, or that model"
            )
        return tuple(prompt)


@dataclass(frozen=True)
class Columns:
    """What a trace calls its columns, how many seconds its unit of time has, and the tokens of a hashed block."""

    input_tokens: str
    output_tokens: str
    unit_s: float
    block_tokens: int = 512


MOONCAKE = Columns("input_length", "output_length", 1e-3)  # milliseconds
BAILIAN = Columns("input_length", "output_length", 1.0, 16)  # the same names, with a chat_id; seconds
BURST_GPT = Columns("request_tokens", "response_tokens", 1.0)  # seconds; 0 response tokens is a failed request
AZURE = Columns("contexttokens", "generatedtokens", 1.0)  # dates


@dataclass(frozen=True)
class Trace:
    """When a request came and how long it was; its prompt is made up later."""

    limits: Limits
    columns: Columns
    numbers: dict[Any, int] = field(default_factory=dict)  # of hash ids, in the order of appearance
    name = "trace"

    @property
    def block_tokens(self) -> int:
        """Tokens that one hash id stands for."""
        return self.columns.block_tokens

    def read(self, content: Content) -> Outcome:
        """One line of the trace as a request; `at_s` counts from wherever the trace does.

        Raises:
            EntryError: a length or time is missing or makes no sense.
        """
        at_s = seconds(need(content, "timestamp"), self.columns.unit_s)
        input_tokens = length(content, self.columns.input_tokens)
        output_tokens = length(content, self.columns.output_tokens)
        blocks = self._blocks(content.get("hash_ids"), input_tokens)
        return self.limits.fitting(RecordedRequest(input_tokens, output_tokens, None, at_s, blocks))

    def _blocks(self, hashes: object, input_tokens: int) -> tuple[int, ...]:
        if hashes is None:
            return ()
        if not isinstance(hashes, list) or not all(isinstance(number, int | str) for number in hashes):
            raise EntryError("has 'hash_ids' that are not a list of numbers: correct or remove them")
        most = -(-input_tokens // self.block_tokens)
        if len(hashes) > most:
            raise EntryError(
                f"has {len(hashes)} hash_ids for {input_tokens} tokens, but blocks of {self.block_tokens} tokens make"
                f" {most}: remove the hash_ids, and no prompts will share a prefix"
            )
        return tuple(self.numbers.setdefault(number, len(self.numbers)) for number in hashes)


Form = ShareGpt | Prompts | Trace


def form_of(content: Content, limits: Limits) -> Form | None:
    """The form that an entry is of, by its keys; None where it is of none."""
    if "conversations" in content:
        return ShareGpt(limits)
    if "prompt" in content:
        return Prompts(limits)
    columns = columns_of(content)
    return None if columns is None else Trace(limits, columns)


def columns_of(names: Container[str]) -> Columns | None:
    """Whose trace has columns of these names; None where nobody's has."""
    for columns in (BAILIAN if "chat_id" in names else MOONCAKE, BURST_GPT, AZURE):
        if all(name in names for name in ("timestamp", columns.input_tokens, columns.output_tokens)):
            return columns
    return None


def need(content: Content, name: str) -> Any:  # noqa: ANN401 - whatever the file holds there
    """A value that must be there.

    Raises:
        EntryError: it is not.
    """
    if content.get(name) is None:
        raise EntryError(f"has no '{name}': all requests of a file have the same form")
    return content[name]


def length(content: Content, name: str) -> int:
    """A number of tokens, 0 or more; spreadsheets write whole numbers as 12.0.

    Raises:
        EntryError: missing, negative, a fraction, or no number.
    """
    value = number = need(content, name)
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    whole = isinstance(number, int) and not isinstance(number, bool)
    if isinstance(number, float):
        whole = number.is_integer()
    if not whole or number < 0:
        raise EntryError(f"has {str(value)[:20]!r} as '{name}': a whole number of tokens is needed")
    return int(number)


def seconds(value: object, unit_s: float) -> float:
    """A time in seconds from a number in the trace's unit, or from a date (UTC where it names no zone).

    Raises:
        EntryError: neither.
    """
    problem = EntryError(
        f"has the 'timestamp' {str(value)[:20]!r}, neither a number below 1e18 nor a date with a time: correct it, or"
        " take it out"
    )
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return _date_s(value, problem)
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e18:
        raise problem
    return number * unit_s


def _date_s(text: str, problem: EntryError) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise problem from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _first_exchange(turns: list[Any]) -> tuple[str | None, str | None]:
    """The first human turn and the first answer after it."""
    prompt = None
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            raise EntryError("has a turn without 'from': correct it, or take it out")
        if not isinstance(turn.get("value"), str):
            raise EntryError("has a turn without text in 'value': correct it, or take it out")
        if prompt is None and turn["from"] in ASKING:
            prompt = turn["value"]
        elif prompt is not None and turn["from"] in ANSWERING:
            return prompt, turn["value"]
    return prompt, None
