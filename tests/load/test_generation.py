"""Greedy answers over HTTP, from servers that answer rightly, wrongly, or as no vLLM does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from common.core.greedy import Answer
from common.load.client import Endpoint
from common.load.control import ControlError
from common.load.generation import Batch, complete, generate_offline
from tests.load.test_client_errors import closed_port

LIKELIEST = [[[7, -0.1], [8, -2.5]], [[9, -0.3]]]
COMPLETION = {
    "choices": [
        {
            "text": "",
            "token_ids": [7, 9],
            "logprobs": {"top_logprobs": [{"token_id:8": -2.5, "token_id:7": -0.1}, {"token_id:9": -0.3}]},
        }
    ]
}
ANSWER = Answer((7, 9), (((7, -0.1), (8, -2.5)), ((9, -0.3),)))


def asked(call: Callable[[Endpoint], Any], path: str, status: int, body: str) -> tuple[Any, dict[str, Any]]:
    """What the call returns from a server that says `body`, and what it was asked."""
    questions: list[dict[str, Any]] = []

    async def reply(request: web.Request) -> web.Response:
        questions.append(await request.json())
        return web.Response(status=status, text=body, content_type="application/json")

    async def run() -> Any:  # noqa: ANN401  # a batch or an answer
        application = web.Application()
        application.add_routes([web.post(path, reply)])
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return await call(Endpoint("127.0.0.1", runner.addresses[0][1], "m"))
        finally:
            await runner.cleanup()

    return asyncio.run(run()), questions[0]


def batch_of(body: object, prompts: int = 1, status: int = 200) -> tuple[Batch, dict[str, Any]]:
    def call(endpoint: Endpoint) -> Any:  # noqa: ANN401
        return generate_offline(endpoint, [(5, 6)] * prompts, 2, logprobs=2)

    return asked(call, "/lab/generate", status, body if isinstance(body, str) else json.dumps(body))


def answer_of(body: object, status: int = 200, logprobs: int | None = 2) -> tuple[Answer, dict[str, Any]]:
    def call(endpoint: Endpoint) -> Any:  # noqa: ANN401
        return complete(endpoint, (5, 6), 2, logprobs)

    return asked(call, "/v1/completions", status, body if isinstance(body, str) else json.dumps(body))


def test_an_offline_batch_with_its_own_seconds() -> None:
    one = {"token_ids": [7, 9], "likeliest": LIKELIEST}
    batch, question = batch_of({"seconds": 1.5, "answers": [one, one]}, prompts=2)
    assert batch == Batch([ANSWER, ANSWER], 1.5)
    assert question == {"prompts": [[5, 6], [5, 6]], "max_tokens": 2, "logprobs": 2}


def test_lengths_may_differ_by_prompt() -> None:
    def call(endpoint: Endpoint) -> Any:  # noqa: ANN401
        return generate_offline(endpoint, [(5,), (6,)], (1, 2))

    one = {"token_ids": [7], "likeliest": []}
    batch, question = asked(call, "/lab/generate", 200, json.dumps({"seconds": 1, "answers": [one, one]}))
    assert question == {"prompts": [[5], [6]], "max_tokens": [1, 2], "logprobs": None}
    assert batch.answers[0] == Answer((7,))


def test_a_completion_with_its_log_probabilities() -> None:
    answer, question = answer_of(COMPLETION)
    assert answer == ANSWER
    assert question["temperature"] == 0
    assert question["ignore_eos"] is question["return_token_ids"] is question["return_tokens_as_token_ids"] is True
    assert (question["prompt"], question["max_tokens"], question["logprobs"]) == ([5, 6], 2, 2)


def test_a_completion_without_log_probabilities() -> None:
    answer, question = answer_of({"choices": [{"token_ids": [7, 9], "logprobs": None}]}, logprobs=None)
    assert answer == Answer((7, 9))
    assert "logprobs" not in question


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "[]",
        {},
        {"choices": []},
        {"choices": [{"text": "a server that is no vLLM"}]},
        {"choices": [{"token_ids": None, "logprobs": None}]},
        {"choices": [{"token_ids": [7], "logprobs": {"top_logprobs": [{"hello": -1.0}]}}]},
    ],
)
def test_a_completion_of_another_kind_is_one_line(body: object) -> None:
    with pytest.raises(ControlError, match="/v1/completions did not answer with") as caught:
        answer_of(body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", ["", "[]", {}, {"seconds": 1}, {"answers": [{}], "seconds": 1}])
def test_a_batch_of_another_kind_is_one_line(body: object) -> None:
    with pytest.raises(ControlError, match="/lab/generate did not answer with"):
        batch_of(body)


def test_a_batch_that_lacks_an_answer_says_so() -> None:
    one = {"token_ids": [7], "likeliest": []}
    with pytest.raises(ControlError, match="answered 1 of 3 prompts"):
        batch_of({"seconds": 1.0, "answers": [one]}, prompts=3)


def test_a_refusal_is_passed_on() -> None:
    with pytest.raises(ControlError, match=r"answered 400: .*too long"):
        batch_of({"error": "ValueError: the prompt is too long"}, status=400)
    with pytest.raises(ControlError, match="answered 404"):
        answer_of({"message": "no such model"}, status=404)


def test_a_server_that_is_not_there() -> None:
    endpoint = Endpoint("127.0.0.1", closed_port(), "m")
    for call in (generate_offline(endpoint, [(1,)], 1), complete(endpoint, (1,), 1)):
        with pytest.raises(ControlError, match="did not answer"):
            asyncio.run(call)
