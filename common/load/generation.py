"""Greedy answers with log-probabilities: from a server one at a time, or from the offline engine as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from common.core.greedy import Answer, Likeliest
from common.core.plural import plural
from common.load.client import Endpoint
from common.load.control import ControlError, ask_json

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Batch:
    """What one offline batch gave; `seconds` are those of `llm.generate(...)` alone, without transport."""

    answers: list[Answer]
    seconds: float


async def generate_offline(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    logprobs: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Batch:
    """One call of `llm.generate(prompts)` in an engine that was started with `EngineSettings.offline`.

    Args:
        endpoint: of the engine.
        prompts: token ids of each.
        max_tokens: exactly how many to generate, for all prompts or for each.
        logprobs: how many of the likeliest tokens to tell per position; None tells nothing.
        timeout_s: for the whole batch.

    Raises:
        ControlError: no answer in time, an error, or not one answer for each prompt.
    """
    url = f"{_base_url(endpoint)}/lab/generate"
    lengths = max_tokens if isinstance(max_tokens, int) else list(max_tokens)
    question = {"prompts": [list(prompt) for prompt in prompts], "max_tokens": lengths, "logprobs": logprobs}
    told = await ask_json("POST", url, timeout_s, msgspec.json.encode(question))
    try:
        answers = [
            Answer(tuple(answer["token_ids"]), tuple(_pairs(step) for step in answer["likeliest"]))
            for answer in told["answers"]
        ]
        batch = Batch(answers, float(told["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ControlError(f"{url} did not answer with tokens: {error!r}") from None
    if len(answers) != len(prompts):
        raise ControlError(f"{url} answered {len(answers)} of {plural(len(prompts), 'prompt')}")
    return batch


async def complete(
    endpoint: Endpoint,
    prompt: Sequence[int],
    max_tokens: int,
    logprobs: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """One greedy answer from `/v1/completions`, in one piece.

    Args:
        endpoint: of the server.
        prompt: token ids.
        max_tokens: exactly how many to generate.
        logprobs: how many of the likeliest tokens to tell per position; None tells nothing.
        timeout_s: for the answer.

    Raises:
        ControlError: no answer in time, an error, or none with token ids, which vLLM alone gives.
    """
    url = f"{_base_url(endpoint)}/v1/completions"
    question: dict[str, Any] = {"model": endpoint.model, "prompt": list(prompt), "max_tokens": max_tokens}
    question |= {"temperature": 0, "ignore_eos": True, "return_token_ids": True}
    if logprobs is not None:
        question |= {"logprobs": logprobs, "return_tokens_as_token_ids": True}
    told = await ask_json("POST", url, timeout_s, msgspec.json.encode(question))
    try:
        choice = told["choices"][0]
        steps = choice["logprobs"]["top_logprobs"] if logprobs is not None else []
        return Answer(tuple(map(int, choice["token_ids"])), tuple(_named(step) for step in steps))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ControlError(f"{url} did not answer with token ids: {error!r}") from None


def _named(step: dict[str, float]) -> Likeliest:
    """From `{"token_id:17": -0.2, ...}`."""
    return _pairs([(name.removeprefix("token_id:"), value) for name, value in step.items()])


def _pairs(step: Sequence[Sequence[Any]]) -> Likeliest:
    return tuple(sorted(((int(token), float(value)) for token, value in step), key=lambda pair: -pair[1]))


def _base_url(endpoint: Endpoint) -> str:
    return f"http://{endpoint.host}:{endpoint.port}"
