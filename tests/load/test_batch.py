"""Several prompts in one request: what is sent, and what is read back."""

from __future__ import annotations

import pytest

from common.core.arrivals import ClosedLoop
from common.core.workload import Request, as_one
from common.load.client import run_load
from tests.load.conftest import GoldenServer, make_requests


def test_all_prompts_go_out_in_one_request_and_all_tokens_come_back(golden: GoldenServer) -> None:
    one = as_one(make_requests(5))
    (record,) = run_load([golden.endpoint()], [one], ClosedLoop(1)).records
    (sent,) = golden.take_log()["requests"]
    assert sent["body"]["prompt"] == [[index, 1_000, 1_001] for index in range(5)]
    assert sent["body"]["max_tokens"] == 4
    assert record.ok and record.output_tokens == record.requested_tokens == len(record.chunk_ns) == 20
    assert record.chunk_ns == sorted(record.chunk_ns) and len(sent["send_ns"]) == 20


def test_a_batch_that_a_server_quotes_is_left_out(golden: GoldenServer) -> None:
    (record,) = run_load([golden.endpoint("echoes")], [as_one(make_requests(3))], ClosedLoop(1)).records
    assert record.error_kind == "http_422" and "1001" not in str(record.error) and "left out" in str(record.error)


def test_slots_are_known(golden: GoldenServer) -> None:
    records = run_load([golden.endpoint()], make_requests(7), ClosedLoop(3)).records
    assert [record.slot for record in records[:3]] == [0, 1, 2]
    assert {record.slot for record in records} == {0, 1, 2}


@pytest.mark.parametrize("requests", [[], [Request(0, "text", 4)], [Request(0, (1, 2), 4), Request(1, (1, 2), 5)]])
def test_what_cannot_be_one_request(requests: list[Request]) -> None:
    with pytest.raises(ValueError, match="batch"):
        as_one(requests)
