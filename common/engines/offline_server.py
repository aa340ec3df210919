"""vLLM's offline `LLM(...)` as an engine: started once, then asked over loopback like `vllm serve`.

`python -m common.engines.offline_server serve MODEL ...` takes the command line of `vllm serve`, builds
`LLM(model=..., tensor_parallel_size=n, ...)` with what differs from vLLM's defaults in it, and answers `/health`,
`/v1/models`, `/version`, `/metrics`, `/collective_rpc` and

    POST /lab/generate {"prompts": [[token id, ...], ...], "max_tokens": n or [n, ...], "logprobs": k or null}
    -> {"seconds": s, "answers": [{"token_ids": [...], "likeliest": [[[token id, log-probability], ...], ...]}, ...]}

one greedy `llm.generate(prompts)`, timed alone. Nothing is streamed: an offline batch has no first token to wait for.

The main thread belongs to vLLM, because signals arrive there; HTTP has a thread of its own and hands work over. Like
the guard's other children it imports only what every environment with a vLLM has.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from aiohttp import web

LARGEST_QUESTION_BYTES = 256 << 20
Job = tuple[Callable[[Any], Any], "Future[Any]"]


def main() -> None:
    """Build the engine, then answer until a signal ends it."""
    arguments, parsed = read_command_line(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from vllm import LLM

    try:
        llm = LLM(**arguments)
        jobs: SimpleQueue[Job] = SimpleQueue()
        door = Door(llm, jobs, (parsed.served_model_name or [parsed.model])[0])
        listener = socket.create_server((parsed.host, parsed.port))  # here, so that a taken port ends the process
        threading.Thread(target=door.serve, args=(listener,), daemon=True).start()
        while True:
            work(llm, *jobs.get())
    except KeyboardInterrupt:
        pass  # vLLM ends its own processes as the interpreter exits


def read_command_line(words: list[str]) -> tuple[dict[str, Any], Any]:
    """Arguments for `LLM(...)`, and the whole command line as `vllm serve` itself parses it."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.cli import serve

    parser = serve.FlexibleArgumentParser(prog="vllm")
    (command,) = serve.cmd_init()
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    parsed, plain = parser.parse_args(words), parser.parse_args(words[:2])
    parsed.model = plain.model = parsed.model_tag
    asked, default = EngineArgs.from_cli_args(parsed), EngineArgs.from_cli_args(plain)
    names = [field.name for field in dataclasses.fields(EngineArgs)]
    changed = {name: getattr(asked, name) for name in names if getattr(asked, name) != getattr(default, name)}
    # `LLM` would switch its counters off, and `vllm serve` has them on
    counted = {"disable_log_stats": asked.disable_log_stats}
    return {"model": parsed.model, "tensor_parallel_size": asked.tensor_parallel_size} | changed | counted, parsed


def work(llm: Any, call: Callable[[Any], Any], answer: Future[Any]) -> None:  # noqa: ANN401  # vllm.LLM
    """One job, on the main thread; what it raises is the asker's, a signal is ours."""
    if not answer.set_running_or_notify_cancel():
        return  # nobody waits any more
    try:
        answer.set_result(call(llm))
    except Exception as error:  # noqa: BLE001  # whatever vLLM raises, the server answers with it
        answer.set_exception(error)


def generate(llm: Any, question: Any) -> dict[str, Any]:  # noqa: ANN401  # vllm.LLM, and whatever JSON holds
    """One greedy batch.

    Raises:
        ValueError: the question is not one, or vLLM does not take a prompt.
    """
    from vllm import SamplingParams

    prompts, lengths, logprobs = read_question(question)
    sampling = [
        SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, logprobs=logprobs) for length in lengths
    ]
    batch = [{"prompt_token_ids": prompt} for prompt in prompts]
    began = time.perf_counter()
    outputs = llm.generate(batch, sampling, use_tqdm=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "answers": [_answer(output.outputs[0]) for output in outputs]}


def read_question(question: Any) -> tuple[list[list[int]], list[int], int | None]:  # noqa: ANN401  # whatever JSON holds
    """Prompts, output tokens for each, and how many log-probabilities per token.

    Raises:
        ValueError: it is not of that form; the message says what is wrong.
    """
    if not isinstance(question, dict):
        raise ValueError("the question is not a JSON object")
    prompts, lengths, logprobs = question.get("prompts"), question.get("max_tokens"), question.get("logprobs")
    if not isinstance(prompts, list) or not prompts:
        raise ValueError("prompts: a list of lists of token ids is needed")
    if not all(isinstance(prompt, list) and prompt and all(map(_is_count, prompt)) for prompt in prompts):
        raise ValueError("prompts: every prompt is a list of token ids, whole numbers from 0")
    lengths = lengths if isinstance(lengths, list) else [lengths] * len(prompts)
    if len(lengths) != len(prompts) or not all(_is_count(length) and length for length in lengths):
        raise ValueError("max_tokens: a whole number from 1, or one for each prompt")
    if logprobs is not None and not _is_count(logprobs):
        raise ValueError("logprobs: a whole number from 0, or null")
    return prompts, lengths, logprobs


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _answer(output: Any) -> dict[str, Any]:  # noqa: ANN401  # vllm.CompletionOutput
    likeliest = [
        sorted(
            ((token, found.logprob) for token, found in step.items() if math.isfinite(found.logprob)),
            key=lambda pair: -pair[1],
        )
        for step in output.logprobs or []
    ]
    return {"token_ids": list(output.token_ids), "likeliest": likeliest}


class Door:
    """The HTTP side. Questions that need the engine become jobs of the main thread and wait for their turn."""

    def __init__(self, llm: Any, jobs: SimpleQueue[Job], model: str) -> None:  # noqa: ANN401  # vllm.LLM
        self._llm, self._jobs, self._model = llm, jobs, model

    def serve(self, listener: socket.socket) -> None:
        """Answer for ever; a thread's whole life."""
        application = web.Application(client_max_size=LARGEST_QUESTION_BYTES)
        application.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/models", self.models),
                web.get("/version", self.version),
                web.get("/metrics", self.metrics),
                web.post("/collective_rpc", self.collective_rpc),
                web.post("/lab/generate", self.generate),
            ]
        )
        asyncio.run(_serve(application, listener))

    async def health(self, _: web.Request) -> web.Response:
        """200 while the engine's own processes live."""
        resources = getattr(self._llm.llm_engine.engine_core, "resources", None)
        return web.Response(status=503 if getattr(resources, "engine_dead", False) else 200)

    async def models(self, _: web.Request) -> web.Response:
        """The one model, under its served name."""
        return web.json_response({"object": "list", "data": [{"id": self._model, "object": "model"}]})

    async def version(self, _: web.Request) -> web.Response:
        """vLLM's version."""
        import vllm

        return web.json_response({"version": vllm.__version__})

    async def metrics(self, _: web.Request) -> web.Response:
        """What vLLM has counted in this process."""
        from prometheus_client import generate_latest

        return web.Response(body=generate_latest(), content_type="text/plain")

    async def collective_rpc(self, request: web.Request) -> web.Response:
        """A worker method in every rank, as the development mode of `vllm serve` answers it."""
        try:
            asked = await request.json()
            method, arguments, timeout_s = asked["method"], tuple(asked.get("args", ())), asked.get("timeout")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _refused(400, f"a JSON object with a method is needed: {error!r}")
        answer = await self._ask(lambda llm: llm.collective_rpc(method, timeout_s, arguments))
        if isinstance(answer, Exception):
            return _refused(500, f"{type(answer).__name__}: {answer}")
        shown = [result if result is None or isinstance(result, dict | list) else str(result) for result in answer]
        return web.json_response({"results": shown})

    async def generate(self, request: web.Request) -> web.Response:
        """One batch."""
        try:
            question = await request.json()
        except ValueError:
            return _refused(400, "the question is not JSON")
        answer = await self._ask(lambda llm: generate(llm, question))
        if isinstance(answer, Exception):
            return _refused(400 if _is_the_askers(answer) else 500, f"{type(answer).__name__}: {answer}")
        return web.json_response(answer)

    async def _ask(self, call: Callable[[Any], Any]) -> Any:  # noqa: ANN401  # what the call returns, or what it raised
        answer: Future[Any] = Future()
        self._jobs.put((call, answer))
        try:
            return await asyncio.wrap_future(answer)
        except Exception as error:  # noqa: BLE001  # becomes an answer with a status
            return error


async def _serve(application: web.Application, listener: socket.socket) -> None:
    runner = web.AppRunner(application, handle_signals=False, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.Event().wait()


def _is_the_askers(error: Exception) -> bool:
    """Whether the question was wrong: a ValueError, or vLLM's own class for it."""
    return isinstance(error, ValueError) or any(kind.__name__ == "VLLMClientError" for kind in type(error).__mro__)


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


if __name__ == "__main__":
    main()
