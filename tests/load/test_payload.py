"""What is in a request's body, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.core.workload import Request
from common.load.payload import request_payload


def body(request: Request, path: str = "/v1/completions") -> dict[str, Any]:
    head, _, content = request_payload(request, "m", path).partition(b"\r\n\r\n")
    assert head == b"Content-Length: %d" % len(content)
    found: dict[str, Any] = json.loads(content)
    return found


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_priority_is_sent_where_there_is_one(path: str) -> None:
    """A server that does not schedule by priority rejects requests that name one."""
    assert "priority" not in body(Request(0, (1, 2), 3), path)
    assert body(Request(0, (1, 2), 3, priority=7), path)["priority"] == 7
    assert body(Request(0, (1, 2), 3, priority=-1), path)["priority"] == -1
