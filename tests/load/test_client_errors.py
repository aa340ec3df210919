"""Every way in which a request can go wrong ends as a record with its kind, never as a hang or an exception."""

from __future__ import annotations

import socket
import time

import pytest

from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.record import RequestRecord
from common.load.client import Endpoint, run_load
from tests.load.conftest import GoldenServer, make_requests


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_mode(golden: GoldenServer, mode: str, count: int = 6, timeout_s: float = 10.0) -> list[RequestRecord]:
    records = run_load([golden.endpoint(mode)], make_requests(count), ClosedLoop(2), timeout_s=timeout_s).records
    assert [record.index for record in records] == list(range(count))
    return records


@pytest.mark.parametrize(
    ("mode", "kind", "message", "chunks"),
    [
        ("resets", "reset", "reset", 2),
        ("cut_short", "truncated", "closed the connection", 2),
        ("no_done", "truncated", "after 2 content chunks without [DONE]", 2),
        ("broken_chunk", "truncated", "Invalid character in chunk size", 2),
        ("error_event", "server_error", "the engine died", 1),
        ("empty", "no_content", "without any generated text", 0),
        ("bad_request", "http_400", "max_tokens is too large", 0),
        ("server_error", "http_500", "it broke it broke", 0),
        ("no_usage", "no_usage", "no token count", 4),
        ("wrong_usage", "wrong_usage", "usage says 3 output tokens and 4 chunks", 4),
    ],
)
def test_each_misbehaviour_has_its_kind(golden: GoldenServer, mode: str, kind: str, message: str, chunks: int) -> None:
    for record in run_mode(golden, mode):
        assert record.error_kind == kind
        assert record.error is not None and message in record.error and len(record.error) <= 250
        assert len(record.chunk_ns) == chunks


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["silent", "slow_loris"])
def test_no_answer_is_a_timeout(golden: GoldenServer, mode: str) -> None:
    begin = time.perf_counter()
    records = run_mode(golden, mode, count=4, timeout_s=0.3)
    assert [record.error_kind for record in records] == ["timeout"] * 4
    assert all(record.error == "no complete answer within 0.3 s" for record in records)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("arrivals", [ClosedLoop(4), OpenLoop(500.0)])
def test_a_closed_port_refuses_every_request_quickly(arrivals: ClosedLoop | OpenLoop) -> None:
    begin = time.perf_counter()
    result = run_load([Endpoint("127.0.0.1", closed_port(), "m")], make_requests(50), arrivals)
    assert [record.error_kind for record in result.records] == ["refused"] * 50
    assert all(
        record.sent_ns is None and "cannot connect to 127.0.0.1" in str(record.error) for record in result.records
    )
    assert time.perf_counter() - begin < 10 and result.duration_s >= 0


def test_a_host_without_an_address_refuses() -> None:
    result = run_load([Endpoint("no-such-host.invalid", 80, "m")], make_requests(3), ClosedLoop(1))
    assert [record.error_kind for record in result.records] == ["refused"] * 3
    assert "has no address" in str(result.records[0].error)


def test_a_dead_replica_costs_its_slots_one_request_each(golden: GoldenServer) -> None:
    endpoints = [golden.endpoint(), Endpoint("127.0.0.1", closed_port(), "golden")]
    records = run_load(endpoints, make_requests(30), ClosedLoop(4)).records
    assert [record.error_kind for record in records[:4]] == [None, "refused", None, "refused"]
    assert all(record.ok for record in records[4:])


@pytest.mark.parametrize("mode", ["closes", "says_close"])
def test_a_server_that_closes_between_requests_is_no_error(golden: GoldenServer, mode: str) -> None:
    records = run_mode(golden, mode)
    log = golden.take_log()
    assert [record.error for record in records] == [None] * 6
    assert [len(record.chunk_ns) for record in records] == [4] * 6
    assert len(log["requests"]) == 6, "no request is served twice"
    assert log["connections"] >= 6
    waits = [(record.sent_ns or 0) - (record.intended_ns or 0) for record in records]
    assert min(waits) >= 0 and max(waits) > 0, "the time of a reconnect is not hidden"


def test_a_server_without_ignore_eos_is_asked_again_without_it(golden: GoldenServer) -> None:
    result = run_load([golden.endpoint("picky")], make_requests(6), ClosedLoop(2))
    assert [record.error for record in result.records] == [None] * 6
    assert result.flags == ("ignore_eos_rejected",)
    assert ["ignore_eos" in entry["body"] for entry in golden.take_log()["requests"]] == [True] * 6 + [False] * 6
    assert run_load([golden.endpoint()], make_requests(2), ClosedLoop(2)).flags == ()


def test_empty_chunks_are_not_tokens(golden: GoldenServer) -> None:
    records = run_mode(golden, "some_empty")
    entries = {entry["id"]: entry for entry in golden.take_log()["requests"]}
    for record in records:
        assert record.ok and len(record.chunk_ns) == record.output_tokens == 4
        assert record.chunk_ns[0] > entries[record.index]["send_ns"][0]


def test_several_tokens_in_a_chunk_are_counted_by_usage(golden: GoldenServer) -> None:
    for record in run_mode(golden, "pairs"):
        assert record.ok and (record.output_tokens, len(record.chunk_ns)) == (4, 2)


@pytest.mark.parametrize(("mode", "chunks"), [("unicode", 1), ("gzipped", 4)])
def test_encodings(golden: GoldenServer, mode: str, chunks: int) -> None:
    for record in run_mode(golden, mode):
        assert record.ok and (record.output_tokens, len(record.chunk_ns)) == (4, chunks)
