from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.core.workload import Request
from common.load import client
from common.load.client import Endpoint


@pytest.fixture(autouse=True)
def no_waiting_for_the_collector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the client begins with a full collection: a tenth of a second here, which only times need."""
    if request.node.get_closest_marker("timing") is None:
        monkeypatch.setattr(client, "_no_garbage_collection", nullcontext)


@dataclass(frozen=True)
class GoldenServer:
    """The server's two ports, and what it says of itself."""

    ports: list[int]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def endpoint(self, model: str = "golden", path: str = "/v1/completions") -> Endpoint:
        return Endpoint("127.0.0.1", self.ports[0], model, path)

    def take_log(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.base_url}/log", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture(scope="session")
def running_server() -> Iterator[GoldenServer]:
    script = Path(__file__).with_name("golden_server.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield GoldenServer(json.loads(server.stdout.readline()))
        server.terminate()


@pytest.fixture
def golden(running_server: GoldenServer) -> GoldenServer:
    running_server.take_log()
    return running_server


def make_requests(count: int, tokens: int = 4) -> list[Request]:
    """Requests whose first prompt token is their index, which is how the golden server tells them apart."""
    return [Request(index, (index, 1_000, 1_001), tokens) for index in range(count)]
