"""What a machine must be before anything is downloaded to it: driver, GPUs, their links, disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from common.cloud.errors import MachineError
from common.cloud.transport import Transport

NEEDED_DRIVER = 580  # CUDA 13, which the pinned vLLM's wheels are built for
PROBE = r"""
echo "@gpus"; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
echo "@cuda"; nvidia-smi 2>/dev/null | grep -o 'CUDA[A-Z a-z]* Version: *[0-9.]*' | head -n 1
echo "@links"; nvidia-smi topo -m 2>/dev/null | grep '^GPU'
echo "@disk"; df -B1 --output=avail "$HOME" | tail -n 1
echo "@end"
"""


def probe(transport: Transport, wanted: Mapping[str, Any], disk_bytes: float) -> dict[str, Any]:
    """What the machine is, if it is what was ordered (`gpus` and `links` of the intent).

    Raises:
        MachineError: it is something else; the message says what.
    """
    answer = transport.run(PROBE, timeout_s=120)
    parts = dict(re.findall(r"@(\w+)\n(.*?)(?=@|\Z)", answer.out.decode(errors="replace"), re.DOTALL))
    gpus = [line.split(", ") for line in parts.get("gpus", "").splitlines() if ", " in line]
    disk = parts.get("disk", "").strip()
    free = int(disk) if disk.isdigit() else 0
    cuda = re.search(r"([\d.]+)\s*$", parts.get("cuda", "").strip())
    nvlink = re.search(r"\bNV\d+\b", parts.get("links", "")) is not None
    found: dict[str, Any] = {"gpus": len(gpus), "gpu": gpus[0][0] if gpus else None, "nvlink": nvlink}
    found |= {"driver": gpus[0][1] if gpus else None, "cuda": cuda[1] if cuda else None, "disk_free_bytes": free}
    count = wanted.get("gpus", 0)
    if len(gpus) != count:
        raise MachineError(f"the machine has {len(gpus)} GPUs and {count} were ordered")
    driver = gpus[0][1].partition(".")[0] if gpus else str(NEEDED_DRIVER)
    if not driver.isdigit() or int(driver) < NEEDED_DRIVER:
        raise MachineError(f"the machine's driver is {driver}, and the pinned vLLM needs {NEEDED_DRIVER} (CUDA 13)")
    if count > 1 and wanted.get("links") == "NVLink" and not nvlink:
        raise MachineError("the machine was ordered with NVLink and has none: tensor parallelism would mislead")
    if free < disk_bytes:
        raise MachineError(f"the machine has {free / 1e9:.0f} GB free and {disk_bytes / 1e9:.0f} are needed")
    return found
