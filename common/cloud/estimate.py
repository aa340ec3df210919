"""What an evening will take and cost, from the experiment's own dry run; nothing is asked of a network."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.cloud.errors import Refused
from common.cloud.profiles import Profile
from common.cloud.transport import harmless
from common.core.plan import ParallelPlan
from common.engines.models import default_model
from common.engines.reference_models import REFERENCE_MODELS
from common.predict.hardware import UnknownHardwareError
from common.predict.hardware import find as find_hardware
from common.predict.memory import fit
from common.predict.shapes import UnknownModelError, bytes_per_weight, find_shape

BOOT_S, INSTALL_S, ENDING_S = 240.0, 420.0, 60.0
DOWNLOAD_BYTES_S = 200e6
ROOM_BYTES = 40e9  # environment, caches, results
LEAST_RUN_S = 300.0  # of an experiment that takes as long as it is given
SPARE = 1.15
OURS = ("--results-dir", "--usd-per-hour", "--dry-run", "--dry-run-gpus", "--engine-python")  # set by the flow
ABOUT_THE_WEEK = ("__init__", "checklist", "decide", "predict_scaling")


@dataclass(frozen=True)
class Estimate:
    """Seconds of every part, and what the experiment says about itself."""

    cases: int
    engine_starts: int
    run_s: float
    download_bytes: float
    source: str

    @property
    def seconds(self) -> float:
        """From create to gone."""
        return BOOT_S + INSTALL_S + self.download_bytes / DOWNLOAD_BYTES_S + self.run_s + ENDING_S

    def usd(self, usd_per_hour: float) -> float:
        """Dollars at this price of the whole machine."""
        return usd_per_hour * self.seconds / 3600

    def within(self, seconds: float) -> Estimate:
        """The same of an experiment that takes as long as it is given, in so many seconds from create to gone."""
        other_s = self.seconds - self.run_s
        return replace(self, run_s=min(self.run_s, max(LEAST_RUN_S, seconds - other_s)))

    @property
    def disk_bytes(self) -> float:
        """Free space that the machine must have."""
        return SPARE * self.download_bytes + ROOM_BYTES

    def in_words(self, usd_per_hour: float | None, of: str = "") -> str:
        """One line; `of` says what that price is of where it is not the machine's own."""
        usd = "" if usd_per_hour is None else f", about ${self.usd(usd_per_hour):.2f}{f' ({of})' if of else ''}"
        download = f"download {self.download_bytes / 1e9:.0f} GB, " if self.download_bytes else ""
        return (
            f"estimate: {self.cases} cases, {self.engine_starts} engine starts, {download}{self.run_s / 60:.0f} minutes"
            f" of experiment, {self.seconds / 60:.0f} minutes in all{usd} ({self.source})"
        )


def script_of(root: Path, stem: str) -> str:
    """The experiment's path in the checkout.

    Raises:
        Refused: there is no such experiment.
    """
    known = sorted(path.stem for path in (root / "week5").glob("*.py") if path.stem not in ABOUT_THE_WEEK)
    if stem not in known:
        raise Refused(f"unknown experiment '{stem}': --exp takes one of {', '.join(known)}")
    return f"week5/{stem}.py"


def split(arguments: str) -> tuple[str, ...]:
    """`--exp-args` as words.

    Raises:
        Refused: a quote is open, or an option that `go` sets itself.
    """
    try:
        words = tuple(shlex.split(arguments))
    except ValueError as error:
        raise Refused(f"--exp-args {arguments!r}: {error}") from error
    for word in words:
        if word.partition("=")[0].replace("_", "-") in OURS:
            raise Refused(f"--exp-args {word}: this is set here; leave it out")
    return words


def model_of(words: tuple[str, ...], gpus: int) -> str:
    """The model that the experiment will take."""
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == "--model":
            return value or (words[index + 1] if index + 1 < len(words) else "")
    return default_model("gpu" if gpus else "cpu", gpus)


def check_fits(model: str, profile: Profile) -> float:
    """Check that the model's weights fit the GPUs and the disk; their bytes, 0 where nothing is downloaded.

    Raises:
        Refused: they do not.
    """
    if model in REFERENCE_MODELS:
        return 0.0
    try:
        shape, _ = find_shape(model)
        hardware = find_hardware(profile.listed.gpu, profile.listed.links)
    except (UnknownModelError, UnknownHardwareError):
        return 0.0  # the machine's own download checks its disk, vLLM its memory
    bytes_each = bytes_per_weight(model, "auto")
    weights = shape.parameters * bytes_each
    if SPARE * weights + ROOM_BYTES > profile.disk_gb * 1e9:
        needed = (SPARE * weights + ROOM_BYTES) / 1e9
        raise Refused(f"{model} takes {weights / 1e9:.0f} GB: --disk-gb {needed:.0f} or more ({profile.disk_gb} now)")
    if not fit(shape, hardware, ParallelPlan(tp=profile.gpus), bytes_each).fits:
        machine = f"{profile.gpus} x {profile.listed.gpu}"
        raise Refused(f"{model} ({weights / 1e9:.0f} GB) does not fit {machine}: take a larger profile")
    return weights


def estimate(root: Path, script: str, words: tuple[str, ...], gpus: int, download_bytes: float) -> Estimate:
    """Ask the experiment's `--dry-run` for so many GPUs.

    Raises:
        Refused: the experiment refuses its arguments; its own line is the reason.
    """
    own = [sys.executable, str(root / script), "--dry-run", *words]
    command = [*own, *(["--dry-run-gpus", str(gpus)] if gpus else [])]
    environ = harmless(os.environ) | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=root, env=environ)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it left no message"]
        raise Refused(f"{script} refuses: {said[-1].removeprefix('error: ')}")
    try:
        summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])["summary"]
        counts = int(summary["cases"]), int(summary["engine_starts"]), float(summary["minutes"]) * 60
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Refused(f"{script} --dry-run does not end with a line that says what it would do") from error
    return Estimate(*counts, download_bytes, "the experiment's own --dry-run; rates are assumed")
