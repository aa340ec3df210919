"""An account behind a socket whose pods are processes of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.cloud.estimate import Estimate
from tests.cloud.evening import Place, a_place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with a_place(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network at all, no keys, and a home without an ssh key."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was touched")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    planned = Estimate(8, 2, 600.0, 0.0, "as planned")
    for name in ("RUNPOD_API_KEY", "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("common.cloud.checks.estimate", lambda *_: planned)
    return tmp_path
