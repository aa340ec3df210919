"""AWS through the same flow: moto in place of EC2, faults in front of it, the same property."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.cloud.aws import Aws
from common.cloud.aws_start import user_data
from common.cloud.clock import Pauses
from common.cloud.deadman import DeadMan
from common.cloud.errors import BILLING, CLEAN, NO_CAPACITY, RUN_FAILED, CloudError, MachineError
from common.cloud.flow import go
from common.cloud.launch import Connect
from common.cloud.main import main
from common.cloud.prices import DATA
from common.cloud.profiles import read_profiles
from common.cloud.provider import Machine
from common.cloud.session import Session
from common.cloud.transport import Done
from tests.cloud.fake_aws import FAULTS, SECRET, SPEC, FakeAws
from tests.cloud.world import PROBED, ROOT, Evening

PROFILES = ROOT / "aws" / "profiles.toml"
CODES = {
    **{"no_capacity": NO_CAPACITY, "no_quota": NO_CAPACITY, "vcpu_limit": NO_CAPACITY, "denied": NO_CAPACITY},
    **{"create_throttled": RUN_FAILED, "request_lost": RUN_FAILED, "gone_in_mid_run": RUN_FAILED},
    **{"outlives_shutdown": NO_CAPACITY, "disk_stays": NO_CAPACITY},
    **dict.fromkeys(("terminate_throttled_for_ever", "shutting_down_for_ever"), BILLING),
    **dict.fromkeys(("volumes_denied", "instances_500"), BILLING),
}
PROBED_L40S = PROBED.replace("A100-SXM4-80GB", "L40S").replace("NV12", "PHB")


class Rote:
    """An instance whose every command succeeds."""

    def __init__(self, fake: FakeAws) -> None:
        self.fake, self.looks = fake, 0

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        if script.startswith("\necho"):
            return Done(0, PROBED_L40S.encode(), "")
        self.looks += ".exit" in script
        self.fake.gone = "gone_in_mid_run" in self.fake.faults and self.looks > 3
        if self.fake.gone:
            raise MachineError("no answer")
        return Done(0, b"0" if ".exit" in script and self.looks % 8 == 0 else b"", "")


def rent(folder: Path, faults: frozenset[str]) -> tuple[int, Evening, FakeAws, list[str]]:
    """One `go`; its exit code, and what exists afterwards."""
    evening = Evening(folder)
    fake = FakeAws(evening.clock, faults)

    def connect(session: Session) -> Connect:
        def to(machine: Machine) -> Rote:
            return Rote(fake)

        return to

    with fake.running():
        pauses = Pauses(insist_s=60, poll_s=10)
        world = replace(evening.world, provider=Aws(SPEC, evening.clock), connect=connect, pauses=pauses)
        request = replace(evening.request, profile=read_profiles(PROFILES, "aws")["4xl40s"])
        try:
            code = go(request, world)
        except CloudError as error:
            evening.said.append(str(error))
            code = error.code
        left = fake.ours()
        assert fake.others_live()
    return code, evening, fake, left


@pytest.fixture(autouse=True)
def small_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.cloud.work.packed", lambda root: b"code")
    monkeypatch.setenv("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
    monkeypatch.setenv("MOTO_ENABLE_AMI_VALIDATION", "true")


def test_a_renting_without_faults(tmp_path: Path) -> None:
    code, evening, fake, left = rent(tmp_path, frozenset())
    assert code == CLEAN, evening.said
    assert left == []
    receipt = json.loads((evening.ledger.folder / "teardown.json").read_text())
    assert receipt["verified"] is True
    assert receipt["looks"][0]["calls"][:2] == ["machines", "leftovers"]
    assert fake.calls.count("RunInstances") == 1
    assert any("PCIe only" in line for line in evening.said)
    assert SECRET not in "".join(path.read_text() for path in evening.ledger.folder.iterdir())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault(fault: str, tmp_path: Path) -> None:
    code, evening, _, left = rent(tmp_path, frozenset({fault}))
    assert code == CODES.get(fault, CLEAN), evening.said
    assert code == BILLING or left == [], (fault, left)
    if code == BILLING:
        assert "aws ec2 terminate-instances --region us-east-1" in "\n".join(evening.said)
    if fault == "no_quota":
        assert "aws service-quotas request-service-quota-increase" in "\n".join(evening.said)


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
def test_bad_input(words: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    caps = ("--max-usd", "15", "--max-hours", "1")
    assert main("aws", PROFILES, ["go", "--exp", "benchmark_scaling", *words, *caps]) == 2
    assert said in capfd.readouterr().err


def test_dry_run_needs_no_boto3(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr("common.cloud.checks.estimate", lambda *_: Evening(Path("/tmp")).request.estimate)
    words = ["go", "--profile", "4xl40s", "--exp", "benchmark_scaling", "--max-usd", "15", "--max-hours", "1"]
    assert main("aws", PROFILES, [*words, "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert "shutdown behaviour terminate" in out
    assert "pip install -e .[cloud]" in err
    assert main("aws", PROFILES, ["verify", "--yes"]) == 2, "refused, and no traceback"


def test_all_regions(tmp_path: Path) -> None:
    fake = FakeAws(Evening(tmp_path).clock)
    with fake.running():
        far = Aws(SPEC | {"region": "eu-west-1"}).client("ec2", "eu-west-1")
        tags = [{"ResourceType": "volume", "Tags": [{"Key": "lab-id", "Value": "abcdef"}]}]
        far.create_volume(AvailabilityZone="eu-west-1a", Size=8, TagSpecifications=tags)
        here = [one for one in Aws(SPEC).leftovers() if one.lab_id]
        everywhere = [one for one in Aws(SPEC | {"all_regions": True}).leftovers() if one.lab_id]
    assert here == []
    assert [one.lab_id for one in everywhere] == ["abcdef"]
    assert everywhere[0].id.startswith("eu-west-1/vol-")
