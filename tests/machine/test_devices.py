"""Which devices a machine offers, and the errors that say what to do."""

from __future__ import annotations

import os
import sys

import psutil
import pynvml
import pytest

from common.machine import gpus
from common.machine.cpus import Core, Cpus
from common.machine.devices import Device, DeviceError, cpu_machine, find_machine, gpu_machine
from tests.machine.replay import A100, L4, RTX_3090, Replay

EIGHT = Cpus("Test CPU", tuple(Core(cpu, 0) for cpu in range(8)))
NINE = Cpus("Test CPU", tuple(Core(cpu, 0) for cpu in range(9)))


def indices(found: tuple[Device, ...]) -> list[int]:
    return [device.index for device in found]


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests say themselves which GPUs there are."""
    monkeypatch.setattr(gpus, "open_nvml", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cpu_devices_are_described() -> None:
    machine = cpu_machine(EIGHT)
    assert indices(machine.devices) == [0, 1, 2, 3]
    assert machine.devices[1].cores == (2, 3)
    assert machine.devices[1].name == "Test CPU, 2 cores"
    memory_bytes = machine.devices[0].memory_bytes
    assert memory_bytes is not None
    assert 0 < memory_bytes <= psutil.virtual_memory().total // 4


def test_the_host_shares_devices_when_no_core_is_left() -> None:
    assert cpu_machine(EIGHT).host_shares_devices
    assert not cpu_machine(NINE).host_shares_devices
    assert cpu_machine(NINE).host_cores == (8,)
    some = cpu_machine(EIGHT, device_ids=[0, 3])
    assert (some.host_shares_devices, some.host_cores) == (False, (2, 3, 4, 5))


def test_ids_keep_their_meaning_when_some_are_chosen() -> None:
    machine = cpu_machine(EIGHT, 1, [6, 2])
    assert indices(machine.devices) == [2, 6]
    assert indices(machine.pick(1)) == [2]
    assert machine.devices[1].cores == (6,)


@pytest.mark.parametrize("ids", [[4], [-1], [0, 7]])
def test_unknown_ids_name_the_legal_ones(ids: list[int]) -> None:
    with pytest.raises(DeviceError, match="this machine offers 0, 1, 2, 3"):
        cpu_machine(EIGHT, device_ids=ids)


def test_no_ids_and_double_ids_are_errors() -> None:
    with pytest.raises(DeviceError, match="names nothing: this machine offers 0, 1, 2, 3"):
        cpu_machine(EIGHT, device_ids=[])
    with pytest.raises(DeviceError, match="twice: choose from 0, 1, 2, 3"):
        cpu_machine(EIGHT, device_ids=[1, 1])


@pytest.mark.parametrize("size", [0, -2, 9])
def test_impossible_slices_are_device_errors(size: int) -> None:
    with pytest.raises(DeviceError, match="give 1 to 8"):
        cpu_machine(EIGHT, size)


@pytest.mark.parametrize("count", [0, -1, 5])
def test_picking_too_many_or_none_says_what_is_there(count: int) -> None:
    with pytest.raises(DeviceError, match=r"4 offered \(0, 1, 2, 3\).*--cores-per-device"):
        cpu_machine(EIGHT).pick(count)
    with pytest.raises(DeviceError, match=r"use a plan of 1 to 4 devices$"):
        gpu_machine(Replay(A100)).pick(count)


def test_gpus_come_with_links_and_are_picked_by_them() -> None:
    machine = gpu_machine(Replay(RTX_3090))
    assert machine.kind == "gpu"
    assert not machine.host_shares_devices
    assert machine.devices[0].memory_bytes == 24576 << 20
    assert indices(machine.pick(2)) == [1, 2]
    assert indices(gpu_machine(Replay(L4)).pick(2)) == [2, 3]
    assert indices(gpu_machine(Replay(RTX_3090), device_ids=[0, 1]).pick(2)) == [0, 1]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [0, 2]),
        ("3", [3]),
        ("GPU-11111111-0000-4000-8000-a10000000080", [1]),
        ("GPU-22, GPU-00", [0, 2]),
    ],
)
def test_cuda_visible_devices_limits_the_offer(visible: str | None, expected: list[int]) -> None:
    machine = gpu_machine(Replay(A100), visible)
    assert indices(machine.devices) == expected
    assert {link.a for link in machine.links} | {link.b for link in machine.links} <= set(expected)


@pytest.mark.parametrize("visible", ["4", "0,0", "GPU-", "GPU-99", "0,-1", "MIG-1234", "0,"])
def test_a_wrong_cuda_visible_devices_is_an_error(visible: str) -> None:
    with pytest.raises(DeviceError, match=r"this machine has 0 \(GPU-00000000"):
        gpu_machine(Replay(A100), visible)


def test_hidden_gpus_cannot_be_chosen() -> None:
    with pytest.raises(DeviceError, match="names 0: this machine offers 1, 3"):
        gpu_machine(Replay(A100), "1,3", [0])


def test_gpus_in_mig_mode_are_not_offered() -> None:
    nvml = Replay(A100)
    nvml.gpus[1]["nvmlDeviceGetMigMode"] = [1, 1]
    assert indices(gpu_machine(nvml).devices) == [0, 2, 3]
    for gpu in nvml.gpus:
        gpu["nvmlDeviceGetMigMode"] = [1, 1]
    with pytest.raises(DeviceError, match="nvidia-smi -mig 0"):
        gpu_machine(nvml)


def test_a_lost_gpu_is_an_error_with_a_remedy() -> None:
    lost = Replay(A100, failing={"nvmlDeviceGetName": pynvml.NVML_ERROR_GPU_IS_LOST})
    with pytest.raises(DeviceError, match=r"does not answer NVML .*see `nvidia-smi`"):
        gpu_machine(lost)


def test_find_machine_prefers_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "open_nvml", lambda: Replay(A100))
    assert indices(find_machine(device_ids=[3, 1]).devices) == [1, 3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert indices(find_machine().devices) == [2, 3]
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES= "):
        find_machine(cores_per_device=1)


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_leave_the_cpu(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setattr(gpus, "open_nvml", lambda: Replay(A100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_machine().kind == "cpu"


def test_a_driver_without_gpus_leaves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Replay(A100)
    empty.gpus.clear()
    monkeypatch.setattr(gpus, "open_nvml", lambda: empty)
    assert find_machine().kind == "cpu"


def test_a_broken_driver_is_an_error_and_not_a_cpu_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(gpus, "open_nvml", broken)
    with pytest.raises(DeviceError, match=r"driver does not answer .*CUDA_VISIBLE_DEVICES="):
        find_machine()


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_this_machine() -> None:
    machine = find_machine()
    assert machine.kind == "cpu"
    assert len(machine.devices) in (1, 2, 4)
    assert len({len(device.cores) for device in machine.devices}) == 1
    cores = [cpu for device in machine.devices for cpu in device.cores]
    assert len(set(cores)) == len(cores)
    assert set(cores) <= os.sched_getaffinity(0)
    assert not set(machine.host_cores) & set(cores)
