from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from common.core.arrivals import ClosedLoop
from common.core.workload import Request
from common.load.bare.process import BareProcess
from common.load.bare.truth import TruthLog
from common.load.client import Endpoint, run_load
from common.load.control import is_healthy, served_models

pytestmark = pytest.mark.timing

TTFT_S, ITL_S = 0.020, 0.002


@pytest.fixture(scope="module")
def running() -> Iterator[BareProcess]:
    with BareProcess(TTFT_S, ITL_S) as server:
        yield server


@pytest.fixture
def bare(running: BareProcess) -> BareProcess:
    running.take_truth()
    return running


@pytest.fixture(scope="module")
def flooding() -> Iterator[BareProcess]:
    with BareProcess(0.001, 0.0) as server:
        yield server


def body(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - anything that JSON holds, and bad values on purpose
    return {"model": "any", "prompt": [1, 2, 3], "max_tokens": 5, "stream": True, **changes}


def post(content: bytes, path: str = "/v1/completions", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def connect(server: BareProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.endpoint.port), timeout=20)


def read_until(connection: socket.socket, end: bytes, count: int = 1) -> bytes:
    """All that comes up to the count-th end, or to the end of the connection."""
    received, looked_at = bytearray(), 0
    while count > 0:
        piece = connection.recv(1 << 20)
        if not piece:
            break
        received += piece
        count -= received.count(end, max(0, looked_at - len(end) + 1))
        looked_at = len(received)
    return bytes(received)


async def stream_lines(url: str, content: dict[str, Any]) -> tuple[list[bytes], float]:
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        async with session.post(url, json=content) as answer:
            assert answer.status == 200 and answer.content_type == "text/event-stream"
            first = await answer.content.readline()
            first_s = time.perf_counter() - began
            return [first, *[line async for line in answer.content]], first_s


def events_in(lines: list[bytes]) -> list[dict[str, Any]]:
    assert lines[1::2] == [b"\n"] * (len(lines) // 2), "every event is one line and a blank one"
    assert lines[-2] == b"data: [DONE]\n"
    return [json.loads(line.removeprefix(b"data: ")) for line in lines[:-2:2]]


@pytest.mark.parametrize("usage", [True, False])
def test_a_completion_line_by_line(bare: BareProcess, usage: bool) -> None:
    asked = body(max_tokens=7, **({"stream_options": {"include_usage": True}} if usage else {}))
    lines, first_s = asyncio.run(stream_lines(f"{bare.base_url}/v1/completions", asked))
    events = events_in(lines)
    tokens = events[:7]
    assert len(events) == 7 + usage
    assert [event["choices"][0]["text"] for event in tokens] == [" token"] * 7
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None] * 6 + ["length"]
    assert {event["object"] for event in events} == {"text_completion"}
    assert {len(line) for line in lines[:12:2]} == {len(lines[0])} and 230 <= len(lines[0]) <= 290
    if usage:
        assert events[-1]["choices"] == []
        assert events[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    assert first_s >= TTFT_S


def test_a_chat_line_by_line(bare: BareProcess) -> None:
    asked = {"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 3, "stream": True}
    asked["stream_options"] = {"include_usage": True}
    lines, _ = asyncio.run(stream_lines(f"{bare.base_url}/v1/chat/completions", asked))
    role, *tokens, usage = events_in(lines)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"] for event in tokens] == [{"content": " token"}] * 3
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None, None, "length"]
    assert usage["usage"]["completion_tokens"] == 3 and usage["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_labs_client_and_the_truth_count_the_same(bare: BareProcess, path: str) -> None:
    requests = [Request(index, (index, 7), 1 + index % 9) for index in range(60)]
    endpoint = Endpoint("127.0.0.1", bare.endpoint.port, "bare", path)
    result = run_load([endpoint], requests, ClosedLoop(12))
    truth = bare.take_truth()
    assert all(record.ok and record.finish_reason == "length" for record in result.records)
    assert [len(record.chunk_ns) for record in result.records] == [request.output_tokens for request in requests]
    assert [record.output_tokens for record in result.records] == [request.output_tokens for request in requests]
    assert (truth.requests, truth.abandoned) == (60, 0)
    assert truth.tokens == sum(request.output_tokens for request in requests)
    seen_s = [record.ttft_s for record in result.records if record.ttft_s is not None]
    assert truth.mean_ttft_s is not None and truth.p99_ttft_s is not None and truth.mean_tpot_s is not None
    assert TTFT_S <= truth.mean_ttft_s <= np.mean(seen_s), "the client cannot see a token before it is sent"
    assert truth.mean_ttft_s <= truth.p99_ttft_s
    assert truth.mean_tpot_s > 0.5 * ITL_S
    assert bare.take_truth().requests == 0, "what was told is forgotten"


def test_an_idle_servers_truth_has_no_times(bare: BareProcess) -> None:
    truth = bare.take_truth()
    assert (truth.requests, truth.tokens) == (0, 0)
    assert truth.mean_ttft_s is truth.p99_ttft_s is truth.mean_tpot_s is truth.late_p99_s is truth.late_max_s is None


def test_it_answers_control_calls(bare: BareProcess) -> None:
    assert asyncio.run(is_healthy(bare.base_url))
    assert asyncio.run(served_models(bare.base_url)) == ["bare"]


def test_a_slow_reader_gets_every_token_and_holds_nobody_up(flooding: BareProcess) -> None:
    flooding.take_truth()
    tokens = 30_000  # 8 MB: more than the socket buffers of both sides
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    slow.settimeout(20)
    with slow:
        slow.connect(("127.0.0.1", flooding.endpoint.port))
        slow.sendall(post(json.dumps(body(max_tokens=tokens)).encode()))
        others = run_load([flooding.endpoint], [Request(index, (1,), 300) for index in range(8)], ClosedLoop(4))
        assert all(record.ok and len(record.chunk_ns) == 300 for record in others.records)
        assert flooding.take_truth().requests == 8, "the slow one has not ended"
        received = read_until(slow, b"0\r\n\r\n")
    lengths = [int(size, 16) for size in re.findall(rb"(?:^|\r\n)([0-9a-f]+)\r\n(?=data|\r\n)", received)]
    assert received.count(b'"text":" token"') == tokens and received.count(b'"finish_reason":"length"') == 1
    assert len(lengths) == tokens + 2, "a chunk for each token, [DONE], and the last"
    truth = flooding.take_truth()
    assert (truth.requests, truth.tokens, truth.abandoned) == (1, tokens, 0)


@pytest.mark.slow
def test_a_slow_reader_catches_up_with_its_times() -> None:
    """And the wait for it is not taken for the server's own lateness."""
    tokens, paused_s = 30_000, 1.5
    with BareProcess(0.0, 1e-5) as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", server.endpoint.port))
        slow.sendall(post(json.dumps(body(max_tokens=tokens)).encode()))
        time.sleep(paused_s)  # the socket is full long before
        assert read_until(slow, b"0\r\n\r\n").count(b'"text":" token"') == tokens
        truth = server.take_truth()
    assert truth.tokens == tokens and truth.mean_tpot_s is not None and truth.mean_tpot_s * tokens >= paused_s
    assert truth.late_p99_s is not None and truth.late_p99_s < 0.6 * paused_s


BAD_REQUESTS = {
    "not JSON": (post(b"{"), 400),
    "not an object": (post(b"[]"), 400),
    "empty": (post(b""), 400),
    "not UTF-8": (post(b'{"a": "\xff"}'), 400),
    "nested too deeply": (post(b"[" * 100_000), 400),
    "no stream": (post(b'{"prompt": "x"}'), 400),
    "stream of another type": (post(json.dumps(body(stream="yes")).encode()), 400),
    "no tokens": (post(json.dumps(body(max_tokens=0)).encode()), 400),
    "negative tokens": (post(json.dumps(body(max_tokens=-1)).encode()), 400),
    "too many tokens": (post(json.dumps(body(max_tokens=10**9)).encode()), 400),
    "half a token": (post(json.dumps(body(max_tokens=1.5)).encode()), 400),
    "true tokens": (post(json.dumps(body(max_tokens=True)).encode()), 400),
    "another path": (post(b"{}", "/v1/embeddings"), 404),
    "another method": (b"GET /v1/completions HTTP/1.1\r\n\r\n", 405),
}
FATAL_REQUESTS = {
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400),
    "a negative length": (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}\r\n\r\n", 400),
    "a body in chunks": (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", 411),
    "a huge body": (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
    "an endless head": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, 431),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_in_one_line_and_the_connection_goes_on(bare: BareProcess, name: str) -> None:
    sent, status = BAD_REQUESTS[name]
    with connect(bare) as connection:
        connection.sendall(sent)
        head, _, content = read_until(connection, b"}}").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        error = json.loads(content)["error"]
        assert error["code"] == status and error["message"] and "\n" not in error["message"]
        connection.sendall(post(json.dumps(body()).encode()))
        assert read_until(connection, b"0\r\n\r\n").count(b'" token"') == 5
    assert bare.take_truth().requests == 1


@pytest.mark.parametrize("name", FATAL_REQUESTS)
def test_a_request_that_cannot_be_followed_ends_its_connection_only(bare: BareProcess, name: str) -> None:
    sent, status = FATAL_REQUESTS[name]
    with connect(bare) as connection:
        connection.sendall(sent)
        received = read_until(connection, b"never there")
    assert b"HTTP/1.1 %d " % status in received and received.endswith(b"}}")
    assert asyncio.run(is_healthy(bare.base_url))


def test_requests_in_pieces_and_requests_at_once(bare: BareProcess) -> None:
    request = post(json.dumps(body(max_tokens=2)).encode())
    with connect(bare) as connection:
        for byte in request:
            connection.sendall(bytes([byte]))
        assert read_until(connection, b"0\r\n\r\n").count(b'" token"') == 2
        connection.sendall(request * 3)
        received = read_until(connection, b"0\r\n\r\n", 3)
    assert received.count(b"HTTP/1.1 200 OK") == 3 and received.count(b'" token"') == 6
    truth = bare.take_truth()
    assert truth.requests == 4 and truth.mean_ttft_s is not None and truth.mean_ttft_s >= TTFT_S


def test_it_closes_when_asked_to(bare: BareProcess) -> None:
    with connect(bare) as connection:
        connection.sendall(post(json.dumps(body()).encode(), more="Connection: close\r\n"))
        assert read_until(connection, b"never there").endswith(b"0\r\n\r\n")
        connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert connection.recv(100) == b""


def test_a_reader_that_leaves_is_counted_and_forgotten(bare: BareProcess) -> None:
    with connect(bare) as connection:
        connection.sendall(post(json.dumps(body(max_tokens=1_000_000)).encode()))
        read_until(connection, b"token")
    deadline = time.monotonic() + 10
    abandoned = 0
    while not abandoned and time.monotonic() < deadline:
        abandoned += bare.take_truth().abandoned
        time.sleep(0.01)
    assert abandoned == 1
    assert run_load([bare.endpoint], [Request(0, (1,), 3)], ClosedLoop(1)).records[0].ok


def test_it_ends_with_its_input_and_tells_what_it_has_not_told() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "common.load.bare", "--ttft-ms", "1", "--itl-ms", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        run_load([Endpoint("127.0.0.1", port, "bare")], [Request(0, (1,), 4)], ClosedLoop(1))
        told, _ = server.communicate(timeout=20)
    truth = json.loads(told)
    assert server.returncode == 0 and truth["requests"] == 1 and truth["tokens"] == 4
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_it_ends_when_its_owner_is_killed() -> None:
    code = (
        "import sys, time\nfrom common.load.bare.process import BareProcess\n"
        "with BareProcess(1, 1) as s: print(s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))
        os.kill(owner.pid, signal.SIGKILL)
    psutil.wait_procs([server], timeout=20)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="cores are chosen on Linux only")
def test_the_server_has_a_core_of_its_own_while_it_runs() -> None:
    code = """if True:
        import os
        from common.load.bare.process import BareProcess
        os.sched_setaffinity(0, range(os.cpu_count()))  # other servers of these tests keep their owner off a core
        before = os.sched_getaffinity(0)
        if len(before) < 2:
            raise SystemExit
        with BareProcess(0.001, 0.001) as server:
            own, ours = os.sched_getaffinity(server.pid), os.sched_getaffinity(0)
            with BareProcess(0.001, 0.001):
                pass
            assert len(own) == 1 and not own & ours and own | ours == before, (before, own, ours)
            assert os.sched_getaffinity(0) == ours
        assert os.sched_getaffinity(0) == before
    """
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_server_that_does_not_start_is_one_line() -> None:
    with (
        pytest.raises(RuntimeError, match=r"did not start \(exit 2\); try it by hand: .* --ttft-ms -1000"),
        BareProcess(-1, 0),
    ):
        pass


@pytest.mark.parametrize(
    "option", [["--ttft-ms", "-1"], ["--itl-ms", "nan"], ["--itl-ms", "soon"], ["--port", "99999"]]
)
def test_impossible_options_are_refused(option: list[str]) -> None:
    command = [sys.executable, "-m", "common.load.bare", *option]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    assert done.returncode == 2 and "Traceback" not in done.stderr and option[0] in done.stderr


@pytest.mark.parametrize("count", [1, 2, 99, 100, 1_001])
def test_percentiles_are_numpys(count: int) -> None:
    drawn = np.random.default_rng(count).integers(0, 10**9, count).tolist()
    log = TruthLog(late_ns=array("q", drawn))
    for value in drawn:
        log.enter(5, 5 + value, 5 + 3 * value, 3)
    truth = log.summary()
    assert truth.late_p99_s == pytest.approx(np.percentile(drawn, 99) / 1e9)
    assert truth.late_max_s == max(drawn) / 1e9
    assert truth.p99_ttft_s == pytest.approx(np.percentile(drawn, 99) / 1e9)
    assert truth.mean_ttft_s == pytest.approx(np.mean(drawn) / 1e9)
    assert truth.mean_tpot_s == pytest.approx(np.mean(drawn) / 1e9, abs=1e-9)
    assert (truth.requests, truth.tokens) == (count, 3 * count)
