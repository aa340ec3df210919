from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from common.core.verdict import ClientCeiling
from common.engines import reference_models
from common.engines.reference_models import ensure_model
from common.experiment import batch_spec, bench, preflight, prepare
from common.machine import memory
from tests.experiment.fakes import MACHINE, World, vllm_launcher
from tests.experiment.script import Script, load_script

SUMMED = cache(reference_models._sha256)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving is tested in tests/store; here it happens hundreds of times."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def sums_of_the_model_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage is looked for in tests/engines; here every run of a script would read the same 20 MB again."""
    monkeypatch.setattr(reference_models, "_sha256", SUMMED)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(bench, "run_load", made.run_load)
    monkeypatch.setattr(batch_spec, "generate_offline", made.generate)
    return made


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the smallest reference model."""
    root = tmp_path_factory.mktemp("cache")
    ensure_model("qwen2-9m", root)
    return root


@pytest.fixture(scope="session")
def script_module() -> ModuleType:
    return load_script()


@pytest.fixture
def script(
    script_module: ModuleType,
    world: World,
    model_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Script:
    """The scaling benchmark on two CPU slices, with `world` in vLLM's place."""
    monkeypatch.setenv("LAB_CACHE_DIR", str(model_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(prepare, "find_machine", lambda *_: MACHINE)
    monkeypatch.setattr(prepare, "measure_ceilings", lambda _: None)
    monkeypatch.setattr(prepare, "calibrate", lambda *_, **__: ClientCeiling(1_024, 100_000.0, 0.001))
    monkeypatch.setattr(prepare, "VllmLauncher", vllm_launcher(world))
    monkeypatch.setattr(preflight, "check_machine", lambda *_: [])
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 40)
    monkeypatch.setattr(preflight, "check_arguments", lambda *_: None)  # asks vLLM itself: ten seconds
    return Script(script_module, monkeypatch, capsys)
