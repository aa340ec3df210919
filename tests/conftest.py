"""Shared by all tests: real engines for every test that does not kill one."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from common.engines.engine import Engine
from common.engines.vllm_engine import vllm_is_installed
from tests.shared_engines import SharedEngines

# A shell that starts us in the background has SIGINT ignored, for us and for every script that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in an activated environment, wherever pytest was started: `python` in a hint is this one.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# jsonschema, and with it nbformat, would build a grammar of addresses when imported: two seconds in every worker.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# What stands in a test's way is another test on the same core: how long an example took says nothing.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

NEEDS_VLLM = pytest.mark.skipif(not vllm_is_installed(), reason="vLLM is not installed (make setup, Linux)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `vllm` are skipped, and reported as such, where no engine can start.

    They run last; on one of several workers first, because they take longest.
    """
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(NEEDS_VLLM)
    among_workers = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("vllm") is None) == among_workers)


def pytest_collection_finish() -> None:
    """What all tests share is garbage for none of them: to look through it takes half a second each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEngines]:
    """Real engines for all who do not end them."""
    shared = SharedEngines(tmp_path_factory.mktemp("engines"))
    yield shared
    shared.close()


@pytest.fixture
def tp1(engines: SharedEngines) -> Engine:
    """The 9M model on one device, in float32, so that tokens can be compared exactly."""
    return engines.of("tp1")


@pytest.fixture
def tp2(engines: SharedEngines) -> Engine:
    """The same split over two."""
    return engines.of("tp2")
