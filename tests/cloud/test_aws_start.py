"""AWS without an account: what an instance is born with, credentials, refusals, dry runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cloud.aws_credentials import spec_of_environment
from common.cloud.aws_start import user_data
from common.cloud.deadman import DeadMan
from common.cloud.main import main
from common.cloud.prices import DATA
from tests.cloud.world import ROOT

PROFILES = ROOT / "aws" / "profiles.toml"


def test_when_temporary_credentials_end(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {"ACCESS_KEY_ID": "ASIAPLANTED", "SECRET_ACCESS_KEY": "planted", "SESSION_TOKEN": "planted"}
    for name, value in planted.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert "expires" not in spec_of_environment(None)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2099-01-01T00:00:00Z")
    spec = spec_of_environment(None)
    assert spec["token"] == "planted"
    assert spec["expires"] == 4070908800


def test_what_an_instance_is_born_with() -> None:
    text = user_data(DeadMan(1_800_000_000, 3600), "ssh-ed25519 AAAA me@here")
    assert text.startswith("#cloud-config\n")
    config = json.loads(text.partition("\n")[2])
    assert config["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me@here"]
    assert len(text) < 16_384, "EC2's limit"
    assert [command[:2] for command in config["bootcmd"]] == [["bash", "-c"]] * 2, "at every boot"


def test_the_timer_is_absolute_and_armed_at_every_boot(tmp_path: Path) -> None:
    (tmp_path / "systemd" / "system").mkdir(parents=True)
    (tmp_path / "systemctl").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n')
    (tmp_path / "systemctl").chmod(0o755)
    script = "LAB_DEADLINE=1800000000\n" + (DATA / "arm_aws.sh").read_text()
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LAB_ETC": str(tmp_path)}
    for _ in range(2):  # a reboot
        subprocess.run(["bash", "-c", script], env=environ, check=True)
    timer = (tmp_path / "systemd" / "system" / "lab-end.timer").read_text()
    assert "OnCalendar=2027-01-15 08:00:00 UTC" in timer
    assert "Persistent=true" in timer
    assert "poweroff" in (tmp_path / "systemd" / "system" / "lab-end.service").read_text()
    calls = (tmp_path / "calls").read_text()
    assert calls.count("start --no-block lab-end.timer lab-deadman.service") == 2
    assert "enable lab-end.timer lab-deadman.service" in calls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "4xa100"), "EC2 has no 4 x A100"),
        (("--gpu", "p3.8xlarge"), "retired"),
        (("--gpu", "g6e"), "ambiguous"),
        (("--gpu", "g6e.12xlarge", "--count", "2"), "has 4 GPUs"),
        (("--profile", "4xl40s", "--region", "mars"), "a region of AWS"),
        (("--profile", "4xl40s", "--tier", "SECURE"), "at Runpod"),
    ],
)
def test_refused_before_any_network(
    words: tuple[str, ...], said: str, offline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    caps = ("--max-usd", "15", "--max-hours", "1")
    assert main("aws", PROFILES, ["go", "--exp", "benchmark_scaling", *words, *caps]) == 2
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["go", "up", "price", "selftest"])
def test_a_price_of_another_region_says_so(offline: Path, capfd: pytest.CaptureFixture[str], verb: str) -> None:
    """There it may be dearer: the most that it can cost is the cap, not what the table would make of it."""
    caps = ("--profile", "4xl40s", "--max-usd", "15", "--max-hours", "1")
    own = {"go": (*caps, "--exp", "benchmark_scaling"), "up": caps}.get(verb, ())
    for region, elsewhere in {"eu-west-1": True, "us-east-1": False}.items():
        assert main("aws", PROFILES, [verb, *own, "--region", region, "--dry-run"]) == 0
        said = " ".join(capfd.readouterr().err.split())
        assert ("price of us-east-1, not of eu-west-1" in said) == elsewhere
        assert ("minutes in all, about $3.86 (price of us-east-1, not of" in said) == (elsewhere and verb == "go")
        assert ("at most $15.00" in said) == (elsewhere and bool(own))
    tight = ["up", "--profile", "4xl40s", "--max-usd", "1", "--max-hours", "1", "--region", "eu-west-1"]
    assert main("aws", PROFILES, tight) == 3
    assert "(price of us-east-1, not of eu-west-1)" in capfd.readouterr().err


def test_dry_run_needs_no_boto3(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    words = ["go", "--profile", "4xl40s", "--exp", "benchmark_scaling", "--max-usd", "15", "--max-hours", "1"]
    assert main("aws", PROFILES, [*words, "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert '"InstanceInitiatedShutdownBehavior": "terminate"' in out
    assert "pip install -e '.[cloud]'" in err
    assert main("aws", PROFILES, ["verify", "--yes"]) == 2, "refused, and no traceback"
