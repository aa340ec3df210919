from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines.reference_models import REFERENCE_MODELS
from common.engines.settings import EngineSettings, InstalledEngine
from common.experiment import preflight
from common.experiment.load_spec import Lengths, LoadSpec
from common.experiment.options import InputError
from common.machine import gpus, memory
from common.machine.devices import Device, Machine
from tests.experiment.fakes import MACHINE

GIB = 1 << 30
SHAPE = ModelShape.from_config(REFERENCE_MODELS["qwen2-126m"].config())
GPUS = Machine("gpu", tuple(Device(i, "gpu", "A GPU", f"GPU-{i}") for i in range(2)), host_shares_devices=False)


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is wrong; tests break one thing."""
    monkeypatch.setattr(preflight, "vllm_is_installed", lambda: True)
    shared(monkeypatch, 8.0)
    monkeypatch.setattr(memory, "open_files_limit", lambda: 1 << 20)
    monkeypatch.setattr(gpus, "foreign_processes", lambda _: [])


def shared(monkeypatch: pytest.MonkeyPatch, free_gib: float) -> None:
    sizes = SimpleNamespace(size_bytes=16 * GIB, free_bytes=round(free_gib * GIB))
    monkeypatch.setattr(memory, "shm_size_bytes", lambda: sizes)


def refusal(machine: Machine = MACHINE, allow_shared: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        preflight.check_machine(machine, 1, allow_shared)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_healthy_machine_says_nothing() -> None:
    assert preflight.check_machine(MACHINE, 2, False) == []
    assert preflight.check_machine(GPUS, 2, False) == []


def test_without_vllm_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "vllm_is_installed", lambda: False)
    message = refusal()
    assert "make setup" in message
    assert "make look" in message


def test_another_environments_vllm_needs_none_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "vllm_is_installed", lambda: False)
    assert preflight.check_machine(MACHINE, 2, False, InstalledEngine("/x/python", {"vllm": "9.9.1"})) == []
    (warning,) = preflight.check_machine(
        MACHINE, 2, False, InstalledEngine("/x/python", {"vllm": "9.9.1"}, finds_plugin=False)
    )
    assert "weight bytes per rank stay unknown" in warning
    assert "pip install" in warning


def test_without_vllm_engine_args_are_said_to_be_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "vllm_is_installed", lambda: False)
    said: list[str] = []
    preflight.check_engine_args(EngineSettings("/m", "m", extra_args=("--foo",)), ParallelPlan(), MACHINE, said.append)
    assert said == ["--engine-args cannot be checked: vLLM is not installed in this environment"]
    preflight.check_engine_args(EngineSettings("/m", "m"), ParallelPlan(), MACHINE, said.append)
    assert len(said) == 1, "nothing to check, nothing to say"


def test_other_interpreters_are_for_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert preflight.check_engine(None) is None
    with pytest.raises(InputError, match=r"need Linux"):
        preflight.check_engine(Path(sys.executable))


@pytest.mark.parametrize(
    ("free_gib", "outcome"), [(0.06, "refused"), (0.24, "refused"), (0.3, "warned"), (1.0, "fine")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, free_gib: float, outcome: str) -> None:
    shared(monkeypatch, free_gib)
    if outcome == "refused":
        message = refusal()
        assert f"{free_gib:.2f} GiB free" in message
        assert "--shm-size=1g" in message
    else:
        warnings = preflight.check_machine(MACHINE, 2, False)
        assert bool(warnings) == (outcome == "warned")
        assert all("--shm-size=1g" in warning for warning in warnings)


def test_no_shared_memory_to_ask_about_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "shm_size_bytes", lambda: None)
    assert preflight.check_machine(MACHINE, 2, False) == []


@pytest.mark.parametrize(("limit", "outcome"), [(256, "refused"), (1_024, "warned"), (4_096, "fine"), (None, "fine")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, limit: int | None, outcome: str) -> None:
    monkeypatch.setattr(memory, "open_files_limit", lambda: limit)
    if outcome == "refused":
        assert "ulimit -n 4096" in refusal()
    else:
        warnings = preflight.check_machine(MACHINE, 2, False)
        assert bool(warnings) == (outcome == "warned")
        assert all("ulimit -n 4096" in warning for warning in warnings)


def busy(monkeypatch: pytest.MonkeyPatch, pid: int | None, name: str) -> None:
    process = SimpleNamespace(pid=pid, name=name, used_bytes=3 * GIB)
    monkeypatch.setattr(gpus, "foreign_processes", lambda uuids: [process] if "GPU-1" in uuids else [])


def test_devices_in_use_name_who_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, 4711, "python")
    message = refusal(GPUS)
    assert "python (pid 4711) 3.0 GiB" in message
    assert "--device-ids" in message
    assert "--allow-shared" in message


def test_a_process_that_a_container_hides_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, None, "unknown process")
    message = refusal(GPUS)
    assert "unknown process 3.0 GiB" in message
    assert "pid" not in message.split(":")[0]


def test_allowed_sharing_goes_on_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, 4711, "python")
    (warning,) = preflight.check_machine(GPUS, 2, True)
    assert "shared with python (pid 4711)" in warning


def specs(*plans: str) -> list[LoadSpec]:
    return [LoadSpec(ParallelPlan.parse(plan), "fixed", 1, Lengths(32, 32, 10240), 2, 3, ()) for plan in plans]


@pytest.mark.parametrize(
    ("plans", "largest", "needed_gib"),
    [
        (["tp1"], "tp1", 1.25),
        (["tp1", "tp2"], "tp2", 2.25),
        (["tp1x2", "tp2"], "tp1x2", 2.5),
        (["tp4", "tp1"], "tp4", 4.25),
    ],
)
def test_memory_in_use_on_slices_is_refused(
    plans: list[str], largest: str, needed_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineSettings("/x", "x")
    monkeypatch.setattr(memory, "available_bytes", lambda: int((needed_gib - 0.05) * GIB))
    with pytest.raises(InputError, match=f"weights and KV cache of {largest} alone take") as caught:
        preflight.check_memory(specs(*plans), settings, SHAPE, MACHINE, False)
    assert "--allow-shared" in str(caught.value)
    (warning,) = preflight.check_memory(specs(*plans), settings, SHAPE, MACHINE, True)
    assert "are free" in warning
    monkeypatch.setattr(memory, "available_bytes", lambda: int((needed_gib + 0.05) * GIB))
    assert preflight.check_memory(specs(*plans), settings, SHAPE, MACHINE, False) == []


def test_the_machines_memory_is_not_a_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    assert preflight.check_memory(specs("tp2"), EngineSettings("/x", "x"), SHAPE, GPUS, False) == []


def test_slices_have_no_foreign_processes_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, 4711, "python")
    assert preflight.check_machine(MACHINE, 2, False) == []


# --- sizes and plans


def test_sizes_that_divide_pass() -> None:
    preflight.check_sizes(SHAPE, [1, 2, 4, 8, 16])


@pytest.mark.parametrize("size", [3, 5, 32])
def test_a_size_that_does_not_divide_names_the_legal_ones(size: int) -> None:
    with pytest.raises(
        InputError, match=rf"--tp {size}: .*16 attention heads, 4 KV heads.*legal sizes: 1, 2, 4, 8, 16$"
    ):
        preflight.check_sizes(SHAPE, [1, size])


def test_a_plan_that_fits_has_no_reason_not_to_run() -> None:
    assert preflight.why_not(ParallelPlan(tp=2), SHAPE, MACHINE, oversubscribe=False) is None


@pytest.mark.parametrize("plan", [ParallelPlan(tp=4), ParallelPlan(tp=2, replicas=2), ParallelPlan(tp=1, pp=4)])
def test_a_plan_that_needs_more_devices_says_how_many(plan: ParallelPlan) -> None:
    error = preflight.why_not(plan, SHAPE, MACHINE, oversubscribe=False)
    assert error is not None
    assert error.kind == "too_few_devices"
    assert error.message == f"{plan} needs {plan.devices} devices, this machine has 2"
    assert "--oversubscribe" in error.remedy


def test_a_size_that_does_not_divide_the_model_is_a_reason_too() -> None:
    error = preflight.why_not(ParallelPlan(tp=3), SHAPE, MACHINE, oversubscribe=True)
    assert error is not None
    assert error.kind == "heads_not_divisible"
    assert error.remedy == "Legal sizes: 1, 2, 4, 8, 16"


def test_where_the_mlp_is_what_a_size_does_not_divide_its_width_is_named() -> None:
    shape = replace(SHAPE, intermediate_size=2 * 1537)
    error = preflight.why_not(ParallelPlan(tp=4), shape, MACHINE, oversubscribe=True)
    assert error is not None and error.message == "tp4 does not divide this model's MLP of 3074 by 4"
    with pytest.raises(InputError, match=r"^--tp 4: tp4 does not divide this model's MLP of 3074.*sizes: 1, 2$"):
        preflight.check_sizes(shape, [1, 4])


def test_slices_can_be_oversubscribed_and_gpus_cannot() -> None:
    assert preflight.why_not(ParallelPlan(tp=4), SHAPE, MACHINE, oversubscribe=True) is None
    error = preflight.why_not(ParallelPlan(tp=4), SHAPE, GPUS, oversubscribe=True)
    assert error is not None
    assert "--oversubscribe" not in error.remedy
