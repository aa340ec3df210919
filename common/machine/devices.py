"""The devices of this machine: its GPUs or, where there are none, equal slices of its CPU cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil
import pynvml

from common.core.plural import plural
from common.machine import cpus, gpus
from common.machine.cgroup import container_limits
from common.machine.topology import Link, best_linked, read_links


class DeviceError(ValueError):
    """The devices that were asked for are not there; the message is one line and ends with the remedy."""


@dataclass(frozen=True)
class Device:
    """One GPU, or one fixed slice of CPU cores."""

    index: int  # the number a user passes to --device-ids
    kind: Literal["gpu", "cpu"]
    name: str
    uuid: str | None = None  # GPUs
    cores: tuple[int, ...] = ()  # CPU slices: logical CPU ids, one per physical core
    memory_bytes: int | None = None  # a slice's is its equal share of what the machine or container may use


@dataclass(frozen=True)
class Machine:
    """Devices of one kind, ordered by index, and what joins them."""

    kind: Literal["gpu", "cpu"]
    devices: tuple[Device, ...]
    host_shares_devices: bool  # CPU: with all devices busy no core is left for the client and the API server
    links: tuple[Link, ...] = ()  # GPU pairs
    host_cores: tuple[int, ...] = ()  # CPU: logical ids of the cores that belong to no device

    def pick(self, count: int) -> tuple[Device, ...]:
        """The `count` best-linked devices, by index: GPUs by NVLink, then by PCIe and NUMA; slices from the first.

        Raises:
            DeviceError: fewer devices than that, or a count below 1.
        """
        if not 1 <= count <= len(self.devices):
            smaller = "" if self.kind == "gpu" else ", or cut smaller slices with --cores-per-device"
            raise DeviceError(
                f"{count} devices asked for and {len(self.devices)} offered ({_listed(self.devices)}): "
                f"use a plan of 1 to {len(self.devices)} devices{smaller}"
            )
        if self.kind == "cpu":
            return self.devices[:count]
        chosen = best_linked([device.index for device in self.devices], self.links, count)
        return tuple(device for device in self.devices if device.index in chosen)


def find_machine(cores_per_device: int | None = None, device_ids: Sequence[int] | None = None) -> Machine:
    """The GPUs that NVML and CUDA_VISIBLE_DEVICES offer; without any, slices of the CPU.

    Args:
        cores_per_device: physical cores of one slice; by default so that four, two or one devices fit.
        device_ids: indices of the devices to keep; by default all.

    Raises:
        DeviceError: the driver does not answer, or something was asked for that is not there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    nvml = None if _hides_all(visible) else _nvml_with_gpus()
    if nvml is not None:
        if cores_per_device is not None:
            raise DeviceError(
                "--cores-per-device cuts CPU slices and this machine has GPUs: leave it out, or hide the GPUs with "
                "CUDA_VISIBLE_DEVICES= (empty)"
            )
        return gpu_machine(nvml, visible, device_ids)
    return cpu_machine(cpus.read_cpus(), cores_per_device, device_ids)


def cpu_machine(
    usable: cpus.Cpus, cores_per_device: int | None = None, device_ids: Sequence[int] | None = None
) -> Machine:
    """Slices of the given cores.

    Raises:
        DeviceError: cores or ids that do not exist.
    """
    try:
        cut = cpus.slices(cores_per_device, usable)
    except ValueError as error:
        raise DeviceError(str(error)) from None
    limit = container_limits().memory_bytes
    memory_bytes = min(psutil.virtual_memory().total, limit or psutil.virtual_memory().total) // len(cut)
    size = len(cut[0])
    name = f"{usable.model}, {plural(size, 'core')}"
    devices = [Device(index, "cpu", name, cores=cores, memory_bytes=memory_bytes) for index, cores in enumerate(cut)]
    kept = _select(devices, device_ids)
    host_cores = usable.left_over({cpu for device in kept for cpu in device.cores})
    return Machine("cpu", kept, host_shares_devices=not host_cores, host_cores=host_cores)


def gpu_machine(nvml: gpus.Nvml, visible: str | None = None, device_ids: Sequence[int] | None = None) -> Machine:
    """Whole GPUs, as far as `visible` (the text of CUDA_VISIBLE_DEVICES) offers them.

    Raises:
        DeviceError: a GPU does not answer, all are in MIG mode, or ids do not exist.
    """
    try:
        found = gpus.read_gpus(nvml)
    except pynvml.NVMLError as error:
        raise DeviceError(f"a GPU does not answer NVML ({error}): see `nvidia-smi`; a reset or reboot helps") from error
    whole = [gpu for gpu in _visible(found, visible) if not gpu.mig]
    if not whole:
        raise DeviceError(
            "every GPU here is in MIG mode and the lab uses whole GPUs: turn it off with `nvidia-smi -mig 0`"
        )
    devices = [Device(gpu.index, "gpu", gpu.name, gpu.uuid, memory_bytes=gpu.memory_bytes) for gpu in whole]
    kept = _select(devices, device_ids)
    return Machine("gpu", kept, host_shares_devices=False, links=read_links(nvml, [device.index for device in kept]))


def _nvml_with_gpus() -> gpus.Nvml | None:
    """NVML, where it has a GPU. A broken driver is an error: slices would pass for a choice that nobody made."""
    try:
        nvml = gpus.open_nvml()
        return nvml if nvml is not None and nvml.nvmlDeviceGetCount() > 0 else None
    except pynvml.NVMLError as error:
        raise DeviceError(
            f"the NVIDIA driver does not answer ({error}): see `nvidia-smi`; restart the container or reboot, or set "
            "CUDA_VISIBLE_DEVICES= (empty) to use CPU slices"
        ) from error


def _hides_all(visible: str | None) -> bool:
    return visible is not None and visible.strip() in ("", "-1", "NoDevFiles")


def _visible(found: Sequence[gpus.Gpu], visible: str | None) -> list[gpus.Gpu]:
    """GPUs named by index or by (the beginning of) a UUID.

    Indices are read in PCI order, as `nvidia-smi` prints them. CUDA itself sorts unequal boards by speed unless
    CUDA_DEVICE_ORDER=PCI_BUS_ID, which is why engines are given UUIDs.
    """
    if visible is None:
        return list(found)
    chosen: list[gpus.Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        by_uuid = entry.startswith("GPU-")
        matches = [gpu for gpu in found if (gpu.uuid.startswith(entry) if by_uuid else str(gpu.index) == entry)]
        if len(matches) != 1 or matches[0] in chosen:
            legal = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in found)
            raise DeviceError(
                f"CUDA_VISIBLE_DEVICES={visible}: '{entry}' is not one GPU, or is there twice; this machine has {legal}"
            )
        chosen.append(matches[0])
    return sorted(chosen, key=lambda gpu: gpu.index)


def _select(devices: Sequence[Device], device_ids: Sequence[int] | None) -> tuple[Device, ...]:
    """The chosen devices, with the indices they had among all."""
    if device_ids is None:
        return tuple(devices)
    legal = {device.index for device in devices}
    unknown = sorted(set(device_ids) - legal)
    if unknown or not device_ids:
        wrong = ", ".join(map(str, unknown)) or "nothing"
        raise DeviceError(f"--device-ids names {wrong}: this machine offers {_listed(devices)}")
    if len(set(device_ids)) < len(device_ids):
        raise DeviceError(f"--device-ids names a device twice: choose from {_listed(devices)}, each once")
    return tuple(device for device in devices if device.index in device_ids)


def _listed(devices: Sequence[Device]) -> str:
    return ", ".join(str(device.index) for device in devices)
