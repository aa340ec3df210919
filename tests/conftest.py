"""Shared by all tests: one real TP=1 and one real TP=2 server for every test that does not kill one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.core.plan import ParallelPlan
from common.engines.models import find_model
from common.engines.settings import EngineSettings
from common.engines.vllm_engine import VllmEngine, VllmLauncher, vllm_is_installed
from common.machine.devices import find_machine

# A shell that starts us in the background has SIGINT ignored, for us and for every script that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

NEEDS_VLLM = pytest.mark.skipif(not vllm_is_installed(), reason="vLLM is not installed (make setup, Linux)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `vllm` are skipped, and reported as such, where no engine can start; they run last."""
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(NEEDS_VLLM)
    items.sort(key=lambda item: item.get_closest_marker("vllm") is not None)


def start(plan: ParallelPlan, model: str, logs: Path, dtype: str = "auto") -> VllmEngine:
    """A real engine on this machine's devices, sharing them where the plan needs more."""
    devices = find_machine().devices
    ranks = [devices[rank % len(devices)] for rank in range(plan.devices)]
    found = find_model(model, say=lambda _: None)
    settings = EngineSettings(str(found.folder), found.name, dtype=dtype)
    return VllmLauncher(logs, (1, 16), lambda _: None).start(plan, ranks, settings)


@pytest.fixture(scope="session")
def tp1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """A served TP=1 engine: the 9M model in float32, so that tokens can be compared exactly."""
    engine = start(ParallelPlan(), "qwen2-9m", tmp_path_factory.mktemp("tp1"), "float32")
    yield engine
    assert engine.stop().clean


@pytest.fixture(scope="session")
def tp2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """A served TP=2 engine of the same model."""
    engine = start(ParallelPlan(tp=2), "qwen2-9m", tmp_path_factory.mktemp("tp2"), "float32")
    yield engine
    assert engine.stop().clean
