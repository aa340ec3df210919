"""Processes forked from one that has imported vLLM: what they are given, and that they are bound like vLLM's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import psutil
import pytest

from common.core.plan import ParallelPlan
from common.engines import importer
from common.engines.engine import Engine
from common.engines.settings import EngineSettings, importer_of
from common.machine.devices import Device
from tests.engines.test_guard import gives_way

CORE = Device(0, "cpu", "A CPU, 1 core", cores=(0,))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch and vLLM lie, with nothing in them."""

    def find_spec(name: str) -> ModuleSpec:
        return ModuleSpec(name, None, origin=str(tmp_path / name / "__init__.py"))

    monkeypatch.setattr(importer, "find_spec", find_spec)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return tmp_path


def add(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_the_libraries_are_those_that_vllm_preloads(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert importer.libraries_to_preload() is None, "no libgomp: left to vLLM"
    gomp = add(site / "torch" / "lib" / "libgomp.so.1")
    assert importer.libraries_to_preload() == gomp
    tcmalloc = add(site / "vllm" / "libs" / "libtcmalloc_minimal.so.4")
    assert importer.libraries_to_preload() == f"{tcmalloc}:{gomp}"
    monkeypatch.setenv("LD_PRELOAD", "/lib/mine.so")
    assert importer.libraries_to_preload() == f"{tcmalloc}:/lib/mine.so:{gomp}"
    monkeypatch.setenv("LD_PRELOAD", "/opt/intel/libiomp5.so")
    assert importer.libraries_to_preload() is None, "another OpenMP binds in another way"


def test_it_is_for_cpus_and_a_user_may_switch_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, plan = EngineSettings("/m", "m"), ParallelPlan()
    monkeypatch.delenv(importer.IMPORT_ONCE, raising=False)
    gpu = Device(0, "gpu", "A GPU", uuid="GPU-0")
    assert settings.environment(plan, [CORE], tmp_path)[importer.IMPORT_ONCE] == "1"
    assert importer.IMPORT_ONCE not in settings.environment(plan, [gpu], tmp_path)
    monkeypatch.setenv(importer.IMPORT_ONCE, "0")
    alone = settings.environment(plan, [CORE], tmp_path)
    assert alone[importer.IMPORT_ONCE] == "0" and importer_of("python", alone) is None


def test_engines_that_differ_only_in_what_vllm_reads_at_their_start_share_an_importer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, plan = EngineSettings("/m", "m"), ParallelPlan()
    split = ParallelPlan(pp=2, stage_layers=(5, 3))
    other = replace(settings, cpu_kv_cache_gib=2)
    one = importer_of("python", settings.environment(plan, [CORE], tmp_path / "a"))
    assert one == importer_of("python", other.environment(split, [CORE, CORE], tmp_path / "b"))
    assert one is not None
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "another")
    assert one == importer_of("python", settings.environment(plan, [CORE], tmp_path))
    compiled = replace(settings, eager=False).environment(plan, [CORE], tmp_path)
    assert one != importer_of("python", compiled), "torch reads it when it is imported"
    assert one != importer_of("/other/python", settings.environment(plan, [CORE], tmp_path))


@pytest.mark.vllm
@pytest.mark.apart
def test_each_thread_of_a_rank_is_bound_to_a_core_of_its_own() -> None:
    """On as many cores as there are: the threads that compute, by what the kernel says of them."""
    cores = sorted(os.sched_getaffinity(0))[:4]
    code = f"""
    import os, torch
    from common.engines.importer import bind_threads
    before = set(os.listdir("/proc/self/task"))
    bind_threads({cores})
    torch.ones(1 << 22).add_(1)
    bound = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    alone = [core for one in bound if len(one) == 1 for core in one]
    assert torch.get_num_threads() == {len(cores)}
    assert sorted(set(alone)) == {cores}, bound
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


@pytest.mark.vllm
def test_an_engine_is_forked_whole_and_its_ranks_are_bound_to_their_devices(tp2: Engine) -> None:
    tree = {pid: psutil.Process(pid) for pid in tp2.pids()}
    names = {pid: " ".join(process.cmdline()) for pid, process in tree.items()}
    assert not any("multiprocessing" in name and "tracker" not in name for name in names.values()), names
    (server,) = [process for pid, process in tree.items() if "vllm.entrypoints.cli.main serve" in names[pid]]
    assert "common.engines.guard" in " ".join(psutil.Process(server.ppid()).cmdline()), "the guard's own child"
    ranks = [pid for pid, name in names.items() if "Worker" in name]
    assert len(ranks) == 2, names
    assert [sorted(os.sched_getaffinity(rank)) for rank in ranks] == [[0], [1]]
    assert all(gives_way(pid) for pid in tree), "to the client"
    assert tp2.facts.startup_phases_s["imports"] > 1, "of the importer, whichever engine it was for"
