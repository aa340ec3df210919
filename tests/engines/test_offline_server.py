"""The offline engine's door without vLLM behind it, and then with: its questions, its tokens, and that it goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import aiohttp
import psutil
import pytest

from common.core.plan import ParallelPlan
from common.core.workload import Workload
from common.engines import offline_server
from common.engines.engine import Engine
from common.engines.guarded import port_is_free
from common.engines.models import find_model
from common.engines.offline_server import Door, read_question, work
from common.engines.settings import EngineSettings
from common.engines.vllm_engine import VllmEngine, VllmLauncher
from common.load import control
from common.load.client import Endpoint
from common.load.control import ControlError
from common.load.generation import complete, generate_offline
from tests.shared_engines import devices_of, settings_of

CHECKOUT = Path(__file__).resolve().parents[2]


def test_it_takes_the_command_line_of_vllm_serve_word_for_word() -> None:
    served = EngineSettings("/m", "m", extra_args=("--max-logprobs", "30"))
    offline = replace(served, offline=True).command(ParallelPlan(tp=2), 8123)
    assert offline[:4] == [sys.executable, "-m", "common.engines.offline_server", "serve"]
    assert offline[3:] == served.command(ParallelPlan(tp=2), 8123)[3:]


def test_a_question_is_read_whole() -> None:
    assert read_question({"prompts": [[1], [2, 3]], "max_tokens": 4}) == ([[1], [2, 3]], [4, 4], None)
    assert read_question({"prompts": [[1], [2]], "max_tokens": [4, 5], "logprobs": 0}) == ([[1], [2]], [4, 5], 0)


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        (None, "not a JSON object"),
        ([], "not a JSON object"),
        ({}, "prompts"),
        ({"prompts": [], "max_tokens": 1}, "prompts"),
        ({"prompts": [[]], "max_tokens": 1}, "prompts"),
        ({"prompts": ["text"], "max_tokens": 1}, "prompts"),
        ({"prompts": [[1, -2]], "max_tokens": 1}, "prompts"),
        ({"prompts": [[True]], "max_tokens": 1}, "prompts"),
        ({"prompts": [[1]]}, "max_tokens"),
        ({"prompts": [[1]], "max_tokens": 0}, "max_tokens"),
        ({"prompts": [[1]], "max_tokens": "9"}, "max_tokens"),
        ({"prompts": [[1]], "max_tokens": [1, 2]}, "max_tokens"),
        ({"prompts": [[1]], "max_tokens": 1, "logprobs": -1}, "logprobs"),
        ({"prompts": [[1]], "max_tokens": 1, "logprobs": 1.5}, "logprobs"),
    ],
)
def test_a_question_that_is_none_is_refused(question: object, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read_question(question)


class PretendLLM:
    """Behind the door in the tests of the door: remembers the thread that it was called on."""

    def __init__(self) -> None:
        self.llm_engine = types.SimpleNamespace(
            engine_core=types.SimpleNamespace(resources=types.SimpleNamespace(engine_dead=False))
        )
        self.called_on: list[threading.Thread] = []

    def collective_rpc(self, method: str, timeout: float | None, args: tuple[str, ...]) -> list[Any]:
        self.called_on.append(threading.current_thread())
        if method == "fail":
            raise RuntimeError("no such method")
        return [{"method": method, "args": list(args), "timeout": timeout}, None, 17]


@contextlib.contextmanager
def open_door(llm: PretendLLM) -> Iterator[tuple[str, threading.Thread]]:
    """A door and the thread that does its work; the thread stands for the process's main one."""
    jobs: SimpleQueue[offline_server.Job] = SimpleQueue()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=Door(llm, jobs, "m").serve, args=(listener,), daemon=True).start()
    over: Future[Any] = Future()

    def main() -> None:
        while not over.done():
            work(llm, *jobs.get())

    worker = threading.Thread(target=main)
    worker.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", worker
    finally:
        over.set_result(None)
        jobs.put((lambda _: None, Future()))
        worker.join()


def test_the_door_answers_what_the_lab_asks_of_an_engine() -> None:
    llm = PretendLLM()
    with open_door(llm) as (url, worker):
        assert asyncio.run(control.is_healthy(url))
        assert asyncio.run(control.served_models(url)) == ["m"]
        told = asyncio.run(control.collective_rpc(url, "weigh", ("a",), 3.0))
        assert told == [{"method": "weigh", "args": ["a"], "timeout": 3.0}, None, "17"]
        assert llm.called_on == [worker], "engine calls belong to one thread, HTTP to another"


def test_a_dead_engine_is_not_healthy() -> None:
    llm = PretendLLM()
    llm.llm_engine.engine_core.resources.engine_dead = True
    with open_door(llm) as (url, _):
        assert not asyncio.run(control.is_healthy(url))


def test_what_the_engine_raises_is_an_answer_and_the_door_stays_open() -> None:
    with open_door(PretendLLM()) as (url, _):
        with pytest.raises(ControlError, match=r"answered 500: .*RuntimeError: no such method"):
            asyncio.run(control.collective_rpc(url, "fail", (), 3.0))
        assert asyncio.run(control.is_healthy(url))


def test_a_job_that_nobody_waits_for_is_left_out() -> None:
    done: list[int] = []
    answer: Future[Any] = Future()
    answer.cancel()
    work(PretendLLM(), lambda _: done.append(1), answer)
    assert done == []


class VLLMClientError(Exception):
    """As vLLM calls what the request is to blame for."""


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a"), 400), (VLLMClientError("too long"), 400), (RuntimeError("a"), 500)]
)
def test_whose_fault_it_was_is_in_the_status(monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(offline_server, "generate", refuse)
    with open_door(PretendLLM()) as (url, _):
        port = int(url.rpartition(":")[2])
        with pytest.raises(ControlError, match=f"answered {status}: .*{error}"):
            asyncio.run(generate_offline(Endpoint("127.0.0.1", port, "m"), [[1]], 1))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/collective_rpc", "not json", 400),
        ("/collective_rpc", "[]", 400),
        ("/collective_rpc", "{}", 400),
        ("/lab/generate", "{", 400),
        ("/v1/completions", "{}", 404),
    ],
)
def test_nonsense_is_refused(path: str, body: str, status: int) -> None:
    async def post(url: str) -> int:
        async with aiohttp.ClientSession() as session, session.post(url + path, data=body) as reply:
            return reply.status

    with open_door(PretendLLM()) as (url, _):
        assert asyncio.run(post(url)) == status


def test_it_imports_only_what_every_environment_with_a_vllm_has() -> None:
    code = (
        "import sys; import common.engines.offline_server;"
        "print([name for name in ('vllm', 'torch', 'pydantic', 'rich', 'tyro', 'pyarrow') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert json.loads(said.stdout.replace("'", '"')) == []


SHAPE = find_model("qwen2-9m", say=lambda _: None).shape
PROMPTS = [[int(token) for token in request.prompt] for request in Workload(6, 32, 16, SHAPE.vocab_size, 3).generate()]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """The 9M model in float32 behind `LLM(...)`, TP=2, so that there are workers to be cleaned up."""
    logs, plan = tmp_path_factory.mktemp("offline"), ParallelPlan(tp=2)
    settings = settings_of("qwen2-9m", offline=True)
    engine = VllmLauncher(logs, (1,), lambda _: None).start(plan, devices_of(plan), settings)
    yield engine
    engine.stop()


@pytest.mark.vllm
def test_the_offline_engine_tells_the_same_facts(offline: VllmEngine, tp2: Engine) -> None:
    ours, served = offline.facts, tp2.facts
    assert ours.version == served.version
    assert ours.weight_bytes_per_rank == served.weight_bytes_per_rank
    assert ours.settings == served.settings
    assert ours.kv_cache_tokens == served.kv_cache_tokens
    assert list(ours.startup_phases_s) == list(served.startup_phases_s)
    assert len(ours.memory_bytes_per_rank) == 2
    assert ours.all_reduce[0].path == "shm"
    assert offline.front_end_cpu_s()[0] > 0
    assert offline.death() is None
    commands = [" ".join(psutil.Process(pid).cmdline()) for pid in offline.pids()]
    assert any("common.engines.offline_server serve" in command for command in commands)
    assert not any("vllm.entrypoints.cli" in command for command in commands)


@pytest.mark.vllm
def test_the_offline_engine_writes_what_the_served_one_writes(offline: VllmEngine, tp1: Engine) -> None:
    endpoint = offline.endpoints[0]
    before = offline.metrics()["vllm:generation_tokens_total"]
    batch = asyncio.run(generate_offline(endpoint, PROMPTS, 16, logprobs=5))
    served = [asyncio.run(complete(tp1.endpoints[0], prompt, 16, logprobs=5)) for prompt in PROMPTS]
    assert [answer.token_ids for answer in batch.answers] == [answer.token_ids for answer in served]
    assert all(len(set(answer.token_ids)) > 4 for answer in served), "one repeated token would prove nothing"
    for one, other in zip(batch.answers, served, strict=True):
        for here, there in zip(one.likeliest, other.likeliest, strict=True):
            assert len(here) == len(there) == 5
            assert here[0][1] == pytest.approx(there[0][1], abs=1e-3)
    assert 0.01 < batch.seconds < 60
    assert offline.metrics()["vllm:generation_tokens_total"] - before == 6 * 16


@pytest.mark.vllm
def test_lengths_by_prompt_and_no_log_probabilities(offline: VllmEngine) -> None:
    batch = asyncio.run(generate_offline(offline.endpoints[0], PROMPTS[:3], [1, 2, 3]))
    assert [len(answer.token_ids) for answer in batch.answers] == [1, 2, 3]
    assert all(answer.likeliest == () for answer in batch.answers)


@pytest.mark.vllm
@pytest.mark.parametrize(("prompt", "tokens"), [([1] * 5_000, 4), ([99_999_999], 4)])
def test_a_prompt_that_vllm_refuses_leaves_the_engine_well(offline: VllmEngine, prompt: list[int], tokens: int) -> None:
    endpoint = offline.endpoints[0]
    with pytest.raises(ControlError, match="answered 400"):
        asyncio.run(generate_offline(endpoint, [prompt], tokens))
    assert len(asyncio.run(generate_offline(endpoint, PROMPTS[:1], 4)).answers) == 1


@pytest.mark.vllm
def test_health_is_answered_while_a_batch_runs(offline: VllmEngine) -> None:
    endpoint = offline.endpoints[0]
    url = f"http://{endpoint.host}:{endpoint.port}"

    async def both() -> tuple[bool, bool, int]:
        batch = asyncio.create_task(generate_offline(endpoint, PROMPTS * 4, 64))
        await asyncio.sleep(0.3)
        well = await control.is_healthy(url)
        still_running = not batch.done()
        return well, still_running, len((await batch).answers)

    assert asyncio.run(both()) == (True, True, 24)


@pytest.mark.vllm
def test_a_stop_in_the_middle_of_a_batch_leaves_nothing(offline: VllmEngine) -> None:
    """Last of this module: the engine is gone afterwards."""
    endpoint, pids = offline.endpoints[0], offline.pids()
    assert len(pids) >= 4, "the LLM, the engine's core, two ranks"
    failures: list[BaseException] = []

    def long_batch() -> None:
        try:
            asyncio.run(generate_offline(endpoint, PROMPTS, 900))
        except ControlError as error:
            failures.append(error)

    thread = threading.Thread(target=long_batch)
    thread.start()
    time.sleep(1.0)
    gone = offline.stop()
    thread.join(10)
    assert gone.clean
    assert gone.killed == 0, "SIGINT is enough"
    assert failures, "the batch did not come to its end"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert port_is_free(endpoint.port)


@pytest.mark.vllm
def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
