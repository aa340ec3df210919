"""An account behind a socket whose pods are processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.cloud.clock import Clock
from tests.cloud.evening import Place
from tests.cloud.fake_runpod import KEY, FakeRunpod, serve
from tests.cloud.pods import Pods


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "hf_PLANTEDTOKEN")
    (tmp_path / "pods").mkdir()
    fake, pods = FakeRunpod(Clock(), boot_s=0.2), Pods(tmp_path / "pods")
    with serve(fake) as url:
        yield Place(tmp_path, fake, pods, url)
        for pod in list(fake.pods.values()):
            if pod.id in pods.processes and pods.processes[pod.id].poll() is None:
                pods.ended(pod)
