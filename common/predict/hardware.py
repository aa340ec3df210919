"""What is known of accelerators: peak rates, memory, links, each with its source; unknown figures are None."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
MACHINE_DEVICES = 8  # more devices than these are in several machines
NETWORK_BYTES_S = 12e9  # all-reduce bandwidth per device between machines: 6 to 25 GB/s on InfiniBand
NETWORK_START_S = 40e-6
CUSTOM_PCIE_DEVICES = 2  # vLLM leaves its own kernel to NCCL on more than these without NVLink
NAME_WORDS = re.compile(  # what may stand beside a card's own name and make it no other card
    r"nvidia|amd|instinct|geforce|tesla|quadro|rtx|tensor|core|gpu|gpus|ada|generation|blackwell|pro|server|workstation"
    r"|edition|sxm[2-6]?|pcie|pci|oam|hbm[23]?e?|gb|gib|x"
)
NEAR = 0.4  # of difflib's likeness: below it no known name resembles what was typed
SAME_MEMORY = 0.1  # a size in a card's name is nominal: 80GB of 79.6 GiB, 192GB of 179
EAGER_START_S = 44e-6  # of an all-reduce launched from Python on A100 (AIConfigurator's measured tables)


class UnknownHardwareError(ValueError):
    """No figures are kept for this accelerator; the message names the nearest three, or all where none is near."""


@dataclass(frozen=True)
class Hardware:
    """One kind of accelerator. Rates are dense and per device; links are one direction."""

    name: str
    fp16_flops: float
    fp8_flops: float | None
    memory_bytes: float
    bandwidth: float
    """Bytes per second of device memory."""
    nvlink: float | None
    """Bytes per second to the other devices over NVLink or its like; None: devices talk over PCIe."""
    pcie: float
    confidence: str
    sources: tuple[str, ...]

    @property
    def link(self) -> float:
        """Bytes per second of the best link to another device."""
        return self.nvlink or self.pcie * 0.6

    def flops(self, bytes_per_weight: float) -> float:
        """Peak operations per second with weights of this size: 8-bit units serve 8 and 4 bits where they exist."""
        return self.fp8_flops if bytes_per_weight <= 1 and self.fp8_flops else self.fp16_flops


def find(name: str, interconnect: str = "") -> Hardware:
    """The accelerator that a name means: "H100-80GB-SXM", "NVIDIA A100 PCIe", "rtx 4090".

    Raises:
        UnknownHardwareError: none is meant.
    """
    text = name.lower()
    without_links = re.search(r"pcie|no nvlink", interconnect.lower()) is not None
    for key, entry in _entries()["gpus"].items():
        if re.search(entry["pattern"], text):
            return _hardware(key, entry, without_links)
    raise _unknown(name)


def find_exactly(name: str) -> Hardware:
    """The accelerator that a person names; nothing may be left over in the name that could mean another one ("H1000").

    Raises:
        UnknownHardwareError: none is meant, or perhaps another; the message is as of `find`.
    """
    found = find(name)
    left = name.lower()
    for piece in re.split(r"\.\*|\|", str(_entries()["gpus"][found.name]["pattern"])):
        left = re.sub(piece, " ", left, count=1)
    for word in re.findall(r"[^\W_]+", left):
        size = re.fullmatch(r"(\d+)gi?b", word)
        fits = size and abs(int(size[1]) / (found.memory_bytes / 2**30) - 1) <= SAME_MEMORY
        if not fits and not NAME_WORDS.fullmatch(word):
            raise _unknown(name)
    return found


def others_of_the_name(name: str) -> list[str]:
    """Cards that a name fits as well as the one that `find` takes: "A100" says neither memory nor links."""
    found = find(name).name
    family, own = found.partition("-")[0], set(found.split("-"))
    if not any(letter.isdigit() for letter in family):  # RTX-6000-Ada and RTX-A6000 share no more than a brand
        return []
    alike = [other for other in _entries()["gpus"] if other != found and other.partition("-")[0] == family]
    text = name.lower()

    def told_apart(other: str) -> bool:
        return any(
            word.rstrip("0123456789").lower() in text if "SXM" in word else word.lower() in text
            for word in own - set(other.split("-"))
        )

    return [other for other in alike if not told_apart(other)]


def taken_as(gpu: str | None) -> str | None:
    """Which card a name was taken for, where it fits others too; None where it does not."""
    others = [] if gpu is None else others_of_the_name(gpu)
    if gpu is None or not others:
        return None
    return f"--gpu {gpu}: taken as {find_exactly(gpu).name}; its name also fits {', '.join(others)}"


def all_reduce_sizes() -> NDArray[np.float64]:
    """Message sizes of the tables, in bytes, ascending."""
    return np.asarray(_entries()["all_reduce"]["bytes"], dtype=np.float64)


def all_reduce_table(hardware: Hardware, devices: int, path: str = "custom") -> NDArray[np.float64]:
    """Seconds of one all-reduce over `devices` at each size of `all_reduce_sizes`.

    `path` is "custom" (vLLM's and TensorRT-LLM's own kernels), "nccl", or "eager": NCCL launched from Python outside
    a CUDA graph. Measured where a table is kept, start time and bandwidth otherwise; zeros for one device.
    """
    if path == "eager":
        own, pair = (all_reduce_table(hardware, count, "nccl") for count in (devices, 2))
        return np.asarray(np.maximum(own, EAGER_START_S * own[0] / pair[0]))  # grows with the ranks as NCCL's start
    sizes = all_reduce_sizes()
    if devices < 2:
        return np.zeros_like(sizes)
    moved = 2 * (devices - 1) / devices * sizes
    if devices > MACHINE_DEVICES:
        return np.asarray(NETWORK_START_S + moved / NETWORK_BYTES_S)
    column = str(min((2, 4, 8), key=lambda known: abs(known - devices)))
    table = _entries()["all_reduce"]["tables"].get(hardware.name.replace("A100-40GB-SXM4", "A100-80GB-SXM4"))
    if table is not None and (hardware.nvlink is not None or "A100" not in hardware.name):
        by_itself = path == "custom" and hardware.nvlink is None and devices > CUSTOM_PCIE_DEVICES
        kept = table.get("nccl" if by_itself else path, table["custom"])
        seconds = np.asarray(kept[column], dtype=np.float64) * 1e-6
        return np.minimum.accumulate(seconds[::-1])[::-1]  # fewer bytes need no more time: single slow points go
    fallback = _entries()["all_reduce"]["no_table"]
    family = "MI300X" if hardware.name.startswith("MI") else "nvlink" if hardware.nvlink else "pcie"
    kind = fallback[family]
    bus = kind["bus_gb_s"][column] * 1e9 if "bus_gb_s" in kind else kind["bus_share_of_link"] * _link(hardware)
    return np.asarray(kind["start_us"][column] * 1e-6 + moved / bus)


def _unknown(name: str) -> UnknownHardwareError:
    known = {one.lower(): one for one in _entries()["gpus"]}
    near = [known[one] for one in difflib.get_close_matches(name.lower(), known, 3, 0)]
    alike = difflib.get_close_matches(name.lower(), known, 1, NEAR)
    told = f"the nearest known are {', '.join(near)}" if alike else f"known are {', '.join(known.values())}"
    return UnknownHardwareError(f"GPU '{name[:80]}' is unknown; {told}")


def _link(hardware: Hardware) -> float:
    return hardware.nvlink or hardware.pcie


def _hardware(name: str, entry: dict[str, Any], without_links: bool) -> Hardware:
    nvlink = None if without_links or entry["nvlink_gb_s"] is None else entry["nvlink_gb_s"] * 1e9
    return Hardware(
        name=name,
        fp16_flops=entry["fp16_tflops"] * 1e12,
        fp8_flops=None if entry["fp8_tflops"] is None else entry["fp8_tflops"] * 1e12,
        memory_bytes=entry["memory_gib"] * 2**30,
        bandwidth=entry["memory_tb_s"] * 1e12,
        nvlink=nvlink,
        pcie=entry["pcie_gb_s"] * 1e9,
        confidence=entry["confidence"],
        sources=tuple(entry["sources"]),
    )


@cache
def _entries() -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((DATA / "hardware.json").read_text(encoding="utf-8"))
    return entries
