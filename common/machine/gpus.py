"""What NVML says about the GPUs: facts, memory in use, and who uses it.

Every function takes the `pynvml` module, or something that answers like it; without one it opens NVML itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

import psutil
import pynvml

Nvml = Any  # the pynvml module or a stand-in: it has no types to check against
_T = TypeVar("_T")

UNKNOWN_PROCESS = "unknown process"
_QUIET_BYTES = 256 << 20  # an idle GPU holds a few MiB, a bare CUDA context 300 and more


@dataclass(frozen=True)
class Gpu:
    """One GPU's facts; `None` where the board or the driver does not tell."""

    index: int  # NVML's, as `nvidia-smi` prints it
    name: str
    uuid: str
    memory_bytes: int | None
    memory_used_bytes: int | None
    power_limit_w: float | None
    sm_clock_hz: float | None
    sm_clock_max_hz: float | None
    memory_clock_hz: float | None
    mig: bool | None


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU; a container may hide its id, its name or how much it holds."""

    device_uuid: str
    pid: int | None
    name: str
    used_bytes: int | None


def open_nvml() -> Nvml | None:
    """`pynvml`, initialised and left open until exit; `None` where there is no NVIDIA driver.

    Raises:
        pynvml.NVMLError: there is a driver, but it does not answer.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return None
        raise
    return pynvml


def ask(call: Callable[..., _T], *arguments: object) -> _T | None:
    """NVML's answer, or `None` where this board, driver or permission does not give one."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def read_gpus(nvml: Nvml) -> tuple[Gpu, ...]:
    """All GPUs in NVML's order, which is that of the PCI bus.

    Raises:
        pynvml.NVMLError: a GPU has no name or UUID to give, as when it fell off the bus.
    """
    return tuple(_read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


def driver_version(nvml: Nvml | None = None) -> str | None:
    """The NVIDIA driver's version, as `550.54.15`."""
    nvml = nvml or open_nvml()
    return None if nvml is None else ask(nvml.nvmlSystemGetDriverVersion)


def driver_cuda_version(nvml: Nvml | None = None) -> tuple[int, int] | None:
    """The newest CUDA version that the driver supports, (major, minor)."""
    nvml = nvml or open_nvml()
    number = None if nvml is None else ask(nvml.nvmlSystemGetCudaDriverVersion)
    return None if number is None else (number // 1000, number % 1000 // 10)


def used_bytes(uuid: str, nvml: Nvml | None = None) -> int | None:
    """Memory in use on one GPU, by anyone, without what the driver reserves for itself.

    Raises:
        pynvml.NVMLError: no such GPU.
    """
    nvml = nvml or open_nvml()
    return None if nvml is None else _memory(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))[1]


def foreign_processes(
    device_uuids: Iterable[str], ours: Collection[int] | None = None, nvml: Nvml | None = None
) -> list[GpuProcess]:
    """Processes on these GPUs that are not ours (by default: this process and its descendants).

    Memory that no listed process explains is returned as an unknown process without an id: containers hide the
    processes of other containers, and sometimes their own, so ask this before starting an engine.

    Raises:
        pynvml.NVMLError: no such GPU.
    """
    nvml = nvml or open_nvml()
    if nvml is None:
        return []
    ours = _own_tree() if ours is None else ours
    foreign: list[GpuProcess] = []
    for uuid in device_uuids:
        listed = _listed_processes(nvml, uuid)
        foreign += [process for process in listed if process.pid not in ours]
        total, known = used_bytes(uuid, nvml), [process.used_bytes for process in listed]
        if total is not None and None not in known:
            unexplained = total - sum(part or 0 for part in known)
            if unexplained > _QUIET_BYTES:
                foreign.append(GpuProcess(uuid, None, UNKNOWN_PROCESS, unexplained))
    return foreign


def _read_gpu(nvml: Nvml, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total, used = _memory(nvml, handle)
    mig = ask(nvml.nvmlDeviceGetMigMode, handle)
    return Gpu(
        index=index,
        name=nvml.nvmlDeviceGetName(handle),
        uuid=nvml.nvmlDeviceGetUUID(handle),
        memory_bytes=total,
        memory_used_bytes=used,
        power_limit_w=_scaled(ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1e-3),
        sm_clock_hz=_scaled(ask(nvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM), 1e6),
        sm_clock_max_hz=_scaled(ask(nvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM), 1e6),
        memory_clock_hz=_scaled(ask(nvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM), 1e6),
        mig=None if mig is None else mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _memory(nvml: Nvml, handle: Any) -> tuple[int | None, int | None]:  # noqa: ANN401 - NVML handles are opaque
    """Total and used bytes. Version 2 of the call does not count the driver's reserve as used."""
    info = ask(nvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2) or ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    return (None, None) if info is None else (int(info.total), int(info.used))


def _listed_processes(nvml: Nvml, uuid: str) -> list[GpuProcess]:
    """Compute and graphics processes; one that does both is listed once."""
    handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
    compute = ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    graphics = ask(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    by_pid = {process.pid: process for process in (*graphics, *compute)}
    return [
        GpuProcess(uuid, pid, _process_name(nvml, pid), process.usedGpuMemory)
        for pid, process in sorted(by_pid.items())
    ]


def _process_name(nvml: Nvml, pid: int) -> str:
    """The program's file name. Its folder is left out: it may tell who ran it."""
    name = ask(nvml.nvmlSystemGetProcessName, pid)
    return PurePath(name.split(" ")[0]).name if name and not name.startswith("[") else UNKNOWN_PROCESS


def _own_tree() -> set[int]:
    try:
        return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    except psutil.Error:
        return {os.getpid()}
