"""What can be wrong before a network is touched: refused in one line, with the remedy."""

from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path

from common.cloud.caps import read_caps
from common.cloud.clock import Pauses
from common.cloud.errors import OverCapError, Refused
from common.cloud.estimate import LEAST_RUN_S, Estimate, check_fits, estimate, model_of, script_of, split
from common.cloud.flow import Request
from common.cloud.options import Go, OfMachine, Renting, Run
from common.cloud.profiles import Profile, checked, choose, read_profiles
from common.cloud.transport import SECRET
from common.cloud.work import Job
from common.engines.reference_models import REFERENCE_MODELS

KEYS = ("id_ed25519", "id_rsa")
MAKE_A_KEY = "make one with: ssh-keygen -t ed25519"
LOOKS_SECRET = re.compile(r"^(hf_|sk-|rpa_|rps_|AKIA|ASIA|ghp_|xox)|^[A-Za-z0-9+/_-]{32,}={0,2}$")
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")


def profile_of(options: OfMachine, path: Path, provider: str) -> Profile:
    """The machine that the options name.

    Raises:
        Refused: none, or none that can be made.
    """
    if options.count is not None and options.gpu is None:
        raise Refused("--count goes with --gpu; a profile has its own count")
    profile = choose(read_profiles(path, provider), options.profile, options.gpu, options.count)
    if options.tier is not None:
        if provider != "runpod" or options.tier not in ("SECURE", "COMMUNITY"):
            raise Refused(f"--tier {options.tier[:20]}: SECURE or COMMUNITY, at Runpod")
        profile = replace(profile, tier=options.tier)
    if options.disk_gb is not None:
        if not re.fullmatch(r"\d{1,5}", options.disk_gb):
            raise Refused(f"--disk-gb {options.disk_gb[:20]}: a whole number of GB")
        profile = replace(profile, disk_gb=int(options.disk_gb))
    if options.image is not None:
        profile = replace(profile, image=options.image)
    if options.region is not None:
        profile = replace(profile, region=options.region)
    return checked(profile)


def check_region(provider: str, region: str | None) -> None:
    """Check that a region could be one.

    Raises:
        Refused: it could not.
    """
    if region is not None and (provider != "aws" or not REGION.fullmatch(region)):
        raise Refused(f"--region {region[:30]}: a region of AWS, as in us-east-1; Runpod chooses its own")


def request_of(options: Renting, profile: Profile, root: Path, purpose: str) -> Request:
    """What is asked for, and whether the dated table says that it can be done within the caps.

    Raises:
        CloudError: bad input, or over a cap by the dated table.
    """
    caps = read_caps(options.max_usd, options.max_hours, options.i_mean_it)
    job = planned = None
    if isinstance(options, Go):
        if options.exp is None:
            raise Refused("which experiment? --exp run_distributed_benchmark is the whole evening")
        script, words = script_of(root, options.exp), split(options.exp_args)
        model = model_of(words, profile.gpus)
        weights = check_fits(model, profile)
        job = Job(script, words, None if model in REFERENCE_MODELS else model, options.keep_venv, env(options.env))
    dated, wind_down_s = profile.dated_usd_per_hour, Pauses().wind_down_s
    try:
        exists_s = caps.seconds(dated)
        if job is not None:
            time = _time(exists_s - wind_down_s, weights) if job.fills_its_time else ()
            planned = estimate(root, job.script, (*job.arguments, *time), profile.gpus, weights)
            caps.check(planned.seconds, dated, wind_down_s)
    except OverCapError as error:  # its region is hardly cheaper; a live quote comes only after this
        raise OverCapError(f"{error} ({profile.dated_elsewhere})" if profile.dated_elsewhere else str(error)) from error
    return Request(profile, caps, purpose, job, planned, root, options.results_dir.expanduser().absolute(), "")


def check_job(options: Run, root: Path) -> None:
    """Check what `run` is given.

    Raises:
        Refused: no such experiment, or bad arguments.
    """
    if not options.experiment:
        raise Refused("which experiment? As in: run benchmark_scaling")
    script_of(root, options.experiment)
    split(options.exp_args)
    env(options.env)


def _time(seconds: float, download_bytes: float) -> tuple[str, ...]:
    """What the evening may take of so many seconds: what boot, installation and download leave."""
    left_s = seconds - Estimate(0, 0, 0.0, download_bytes, "").seconds
    return ("--max-minutes", f"{max(LEAST_RUN_S, left_s) // 60:.0f}")


def env(pairs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Variables as pairs.

    Raises:
        Refused: no pair, or a secret, which would be readable on the machine and in its logs.
    """
    found = []
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise Refused(f"--env {pair[:20]}: NAME=VALUE, as in NCCL_DEBUG=WARN")
        if SECRET.search(name) or LOOKS_SECRET.search(value):
            raise Refused(f"--env {name}=...: this looks like a secret; HF_TOKEN is sent by itself where it is set")
        found.append((name, value))
    return tuple(found)


def ssh_key(path: Path | None) -> tuple[Path, str]:
    """The private key's path and the public key's text.

    Raises:
        Refused: missing, or readable by others.
    """
    folder = Path.home() / ".ssh"
    tried = [path.expanduser()] if path is not None else [folder / name for name in KEYS]
    key = next((one for one in tried if one.is_file()), None)
    if key is None:
        raise Refused(f"no ssh key at {' or '.join(map(str, tried))}: {MAKE_A_KEY}")
    if os.name != "nt" and stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise Refused(f"{key} can be read by others, and ssh will not use it: chmod 600 {key}")
    try:
        public = key.with_name(f"{key.name}.pub").read_text(encoding="utf-8").strip()
    except OSError:
        raise Refused(f"{key}.pub is missing: ssh-keygen -y -f {key} > {key}.pub") from None
    if not public.startswith(("ssh-", "ecdsa-", "sk-")) or "\n" in public:
        raise Refused(f"{key}.pub is not one public key: ssh-keygen -y -f {key} > {key}.pub")
    return key, public


def check_tools() -> None:
    """Check that what reaches a machine is here.

    Raises:
        Refused: it is not.
    """
    for tool in ("ssh", "git"):
        if shutil.which(tool) is None:
            raise Refused(f"{tool} is not installed: apt install {tool.replace('ssh', 'openssh-client')}")


def missing(*checks: object) -> list[str]:
    """What a real run would refuse for, one line each."""
    found = []
    for check in checks:
        try:
            assert callable(check)
            check()
        except Refused as error:
            found.append(str(error))
    return found
