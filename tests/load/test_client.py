from __future__ import annotations

import gc
import itertools
import os
import signal
import statistics
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.workload import Request
from common.engines.models import find_model, token_counter
from common.engines.reference_models import ensure_model
from common.load import client
from common.load.client import Endpoint, run_load
from tests.load.conftest import GoldenServer, make_requests

pytestmark = pytest.mark.timing


def test_closed_loop_counts_are_exact(golden: GoldenServer) -> None:
    requests = [Request(index, (index,), 1 + index % 5, "odd" if index % 2 else "even") for index in range(40)]
    result = run_load([golden.endpoint()], requests, ClosedLoop(8))
    log = golden.take_log()
    sent = {entry["id"]: len(entry["send_ns"]) for entry in log["requests"]}
    assert [record.index for record in result.records] == list(range(40))
    assert all(record.ok and record.finish_reason == "length" for record in result.records)
    assert [len(record.chunk_ns) for record in result.records] == [sent[index] for index in range(40)]
    assert [record.output_tokens for record in result.records] == [1 + index % 5 for index in range(40)]
    assert [record.requested_tokens for record in result.records] == [1 + index % 5 for index in range(40)]
    assert {record.prompt_tokens for record in result.records} == {7}
    assert [record.request_class for record in result.records[:2]] == ["even", "odd"]
    assert log["connections"] == 8, "keep-alive connections are used again"
    assert list(log["most_active"].values()) == [8], "the concurrency is reached and never exceeded"


def test_times_agree_with_the_server(golden: GoldenServer) -> None:
    result = run_load([golden.endpoint("golden:30:10")], make_requests(16, tokens=12), ClosedLoop(8))
    entries = {entry["id"]: entry for entry in golden.take_log()["requests"]}
    on_the_way_ms, gap_errors_ms, sends_ms = [], [], []
    for record in result.records:
        send_ns = entries[record.index]["send_ns"]
        assert record.sent_ns is not None and record.intended_ns == record.sent_ns
        sends_ms.append((entries[record.index]["received_ns"] - record.sent_ns) / 1e6)
        on_the_way_ms += [(seen - sent) / 1e6 for seen, sent in zip(record.chunk_ns, send_ns, strict=True)]
        gaps_s = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(send_ns)]
        gap_errors_ms += [abs(mine - true) * 1e3 for mine, true in zip(record.itl_s, gaps_s, strict=True)]
    assert min(sends_ms) > 0 and min(on_the_way_ms) > 0, "nothing is seen before it is sent"
    assert statistics.median(sends_ms) < 5
    assert statistics.median(on_the_way_ms) < 3
    assert statistics.median(gap_errors_ms) < 2
    ttft_s = statistics.median(record.ttft_s for record in result.records if record.ttft_s is not None)
    assert ttft_s == pytest.approx(0.030, abs=0.008)


def test_what_a_run_says_of_itself(golden: GoldenServer) -> None:
    calls: list[tuple[int, int]] = []
    before_s = time.time()
    result = run_load(
        [golden.endpoint("golden:20:20")],
        make_requests(8, tokens=20),
        ClosedLoop(4),
        progress=lambda done, tokens: calls.append((done, tokens)),
    )
    assert result.begin_ns == min(record.sent_ns for record in result.records if record.sent_ns is not None)
    assert result.end_ns >= max(record.chunk_ns[-1] for record in result.records)
    assert 0.7 < result.duration_s < 3
    assert before_s <= result.begin_unix_s <= time.time() - result.duration_s + 0.1
    assert 0 < result.client_cpu_s < result.duration_s
    assert 0 <= result.loop_lag.delay_s <= result.loop_lag.max_s and result.loop_lag.p99_s <= result.loop_lag.max_s < 1
    assert 2 <= len(calls) <= result.duration_s / 0.25 + 2
    assert calls == sorted(calls) and calls[-1][0] == 8 and calls[-1][1] >= 100
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_blocked_event_loop_shows(golden: GoldenServer) -> None:
    result = run_load(
        [golden.endpoint("golden:5:20")],
        make_requests(2, tokens=20),
        ClosedLoop(2),
        progress=lambda done, tokens: time.sleep(0.1),
    )
    assert result.loop_lag.max_s > 0.08


def test_silence_counts_from_the_first_send(golden: GoldenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first byte that takes longer than the patrol's round is no hang; one past the time-out is."""
    monkeypatch.setattr(client, "PATROL_S", 0.1)
    endpoint = golden.endpoint("thinks")
    hasty = run_load([replace(endpoint, idle_timeout_s=0.12)], make_requests(3), ClosedLoop(1))
    assert [record.error_kind for record in hasty.records] == ["stalled", "cancelled", "cancelled"]
    patient = run_load([replace(endpoint, idle_timeout_s=60)], make_requests(2), ClosedLoop(1))
    assert [record.error_kind for record in patient.records] == [None] * 2


def test_replicas_take_slots_in_turn(golden: GoldenServer) -> None:
    endpoints = [Endpoint("127.0.0.1", port, "golden") for port in golden.ports]
    result = run_load(endpoints, make_requests(32), ClosedLoop(8))
    log = golden.take_log()
    assert all(record.ok for record in result.records)
    assert log["most_active"] == {str(port): 4 for port in golden.ports}
    ports = {entry["id"]: entry["port"] for entry in log["requests"]}
    assert [ports[first] for first in range(8)] == golden.ports * 4


@pytest.mark.parametrize("burstiness", [1.0, None])
def test_open_loop_sends_by_the_clock(golden: GoldenServer, burstiness: float) -> None:
    arrivals = OpenLoop(200.0, burstiness)
    endpoints = [Endpoint("127.0.0.1", port, "golden:50:1") for port in golden.ports]
    result = run_load(endpoints, make_requests(100), arrivals, seed=3)
    assert all(record.ok for record in result.records)
    intended = [record.intended_ns for record in result.records if record.intended_ns is not None]
    schedule_ns = [round(seconds * 1e9) for seconds in arrivals.schedule_s(100, 3)]
    assert [b - a for a, b in itertools.pairwise(intended)] == pytest.approx(
        [b - a for a, b in itertools.pairwise(schedule_ns)], abs=2
    )
    late_ms = [
        (record.sent_ns - record.intended_ns) / 1e6
        for record in result.records
        if record.sent_ns is not None and record.intended_ns is not None
    ]
    assert min(late_ms) >= 0 and statistics.median(late_ms) < 2
    entries = golden.take_log()["requests"]
    assert {entry["id"] % 2: entry["port"] for entry in entries} == {0: golden.ports[0], 1: golden.ports[1]}


def test_open_loop_opens_more_connections_when_the_pool_is_empty(golden: GoldenServer) -> None:
    result = run_load([golden.endpoint("golden:300:1")], make_requests(30), OpenLoop(400.0))
    log = golden.take_log()
    assert all(record.ok for record in result.records)
    assert list(log["most_active"].values()) == [30]
    assert run_load([golden.endpoint()], make_requests(20), OpenLoop(2_000.0)).records[-1].ok


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_the_limit_on_open_files_is_raised_for_the_run(golden: GoldenServer) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        result = run_load([golden.endpoint()], make_requests(120), ClosedLoop(120))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(record.ok for record in result.records)


def test_chat_sends_words_and_skips_the_role_chunk(golden: GoldenServer) -> None:
    result = run_load([golden.endpoint(path="/v1/chat/completions")], make_requests(2), ClosedLoop(1))
    entries = golden.take_log()["requests"]
    assert [len(record.chunk_ns) for record in result.records] == [4, 4]
    assert entries[0]["body"]["messages"] == [{"role": "user", "content": "the it as"}]
    assert all(record.chunk_ns[0] > entry["send_ns"][0] for record, entry in zip(result.records, entries, strict=True))


def test_the_body_asks_for_exactly_this_work(golden: GoldenServer) -> None:
    run_load([golden.endpoint()], make_requests(1), ClosedLoop(1))
    assert golden.take_log()["requests"][0]["body"] == {
        "model": "golden",
        "prompt": [0, 1_000, 1_001],
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_endpoints_must_be_replicas_and_there_must_be_work() -> None:
    with pytest.raises(ValueError, match="one model, one path"):
        run_load([Endpoint("h", 1, "a"), Endpoint("h", 2, "b")], make_requests(1), ClosedLoop(1))
    with pytest.raises(ValueError, match="needs an endpoint and a request"):
        run_load([], make_requests(1), ClosedLoop(1))


def test_the_api_key_is_sent_but_not_shown() -> None:
    from common.load.client import _target

    endpoint = Endpoint("127.0.0.1", 1, "m", api_key="sk-secret")
    target = _target(endpoint)
    assert b"Authorization: Bearer sk-secret\r\n" in target.head
    assert "secret" not in repr(endpoint) + repr(target)


def test_stopping_keeps_what_is_done_and_marks_the_rest(golden: GoldenServer) -> None:
    ended: list[int] = [0]
    result = run_load(
        [golden.endpoint("golden:10:40")],
        make_requests(20, tokens=10),
        ClosedLoop(2),
        progress=lambda done, pieces: ended.append(done),
        should_stop=lambda: ended[-1] >= 2,
    )
    kinds = [record.error_kind for record in result.records]
    assert kinds[: ended[-1]] == [None] * ended[-1] and kinds[ended[-1] :] == ["cancelled"] * (20 - ended[-1])
    assert ended[-1] < 20 and result.records[-1].sent_ns is None
    assert result.duration_s < 2


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
@pytest.mark.parametrize("arrivals", [ClosedLoop(4), OpenLoop(100.0)])
def test_ctrl_c_gets_out_with_every_socket_closed(golden: GoldenServer, arrivals: ClosedLoop | OpenLoop) -> None:
    def interrupt() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    files = len(list(Path("/dev/fd").iterdir()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(KeyboardInterrupt):
            run_load([golden.endpoint("silent")], make_requests(8), arrivals, should_stop=interrupt)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert len(list(Path("/dev/fd").iterdir())) == files
    assert gc.isenabled()


def test_a_recount_is_what_the_tokenizer_says_of_the_text(golden: GoldenServer) -> None:
    """Expected by a call of our own to the tokenizers library; the golden server says " tok" for every token."""
    folder = ensure_model("qwen2-9m")
    oracle = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(" tok" * 12, add_special_tokens=False)
    count = token_counter(find_model("qwen2-9m", say=lambda _: None), of_a_prompt=False)
    records = run_load([golden.endpoint()], make_requests(5, tokens=12), ClosedLoop(2), recount=count).records
    assert [record.recounted_tokens for record in records] == [len(oracle.ids)] * 5
    assert [record.output_tokens for record in records] == [12] * 5
