"""AWS through the same flow: moto in place of EC2, faults in front of it, the same property."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.cloud import dry, launch, teardown
from common.cloud.aws import Aws
from common.cloud.aws_leftovers import KINDS
from common.cloud.clock import Pauses
from common.cloud.errors import (
    BAD_INPUT,
    BILLING,
    CLEAN,
    NO_CAPACITY,
    RUN_FAILED,
    DeniedError,
    MachineError,
    UnansweredError,
)
from common.cloud.flow import Request, World, go
from common.cloud.launch import Connect
from common.cloud.ledger import Ledger
from common.cloud.main import Setting, main
from common.cloud.marks import Marks
from common.cloud.profiles import read_profiles
from common.cloud.provider import Leftover
from common.cloud.session import Session
from common.cloud.transport import Done
from tests.cloud.fake_aws import FAULTS, SECRET, SPEC, FakeAws
from tests.cloud.test_faults import blind
from tests.cloud.test_watchdog import Kill, run_until_killed, take_over
from tests.cloud.world import PROBED, ROOT, Evening, TestClock

PROFILES = ROOT / "aws" / "profiles.toml"
CODES = {
    **{"no_capacity": NO_CAPACITY, "no_quota": NO_CAPACITY, "vcpu_limit": NO_CAPACITY, "denied": NO_CAPACITY},
    "no_image": NO_CAPACITY,
    **{"create_throttled": RUN_FAILED, "request_lost": RUN_FAILED, "gone_in_mid_run": RUN_FAILED},
    **{"outlives_shutdown": RUN_FAILED, "disk_stays": RUN_FAILED, "instances_500_at_first": RUN_FAILED},
    **dict.fromkeys(("terminate_ignored", "terminate_throttled_for_ever", "shutting_down_for_ever"), BILLING),
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
        if "gone_in_mid_run" in self.fake.faults and self.looks > 3:
            self.fake.pull_the_plug()
            raise MachineError("no answer")
        return Done(0, b"0" if ".exit" in script and self.looks % 8 == 0 else b"", "")


@dataclass
class AwsEvening(Evening):
    """One `go` at AWS."""

    region: str = "us-east-1"

    def __post_init__(self) -> None:
        self.clock = TestClock(self.interrupt_at)
        self.aws = FakeAws(self.clock, self.faults)

    @property
    def request(self) -> Request:
        profile = read_profiles(PROFILES, "aws")["4xl40s"]
        return replace(super().request, profile=replace(profile, region=self.region))

    @property
    def world(self) -> World:
        def connect(session: Session) -> Connect:
            return lambda machine: Rote(self.aws)

        pauses = Pauses(insist_s=60, poll_s=10)
        arm = cast(Any, lambda session, spec: self.held)
        provider = Aws(SPEC, self.clock)
        return World(provider, {}, connect, self.said.append, lambda _: True, self.clock, pauses, arm)

    def rent(self) -> int:
        """The exit code, with what is left in `left`."""
        self.left: list[str] = []
        with self.aws.running():
            try:
                return self.go()
            finally:
                self.left = self.aws.ours()
                assert self.aws.others_live()


@pytest.fixture(autouse=True)
def small_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.cloud.work.packed", lambda root: b"code")


@pytest.mark.slow
def test_a_renting_without_faults(tmp_path: Path) -> None:
    evening = AwsEvening(tmp_path)
    assert evening.rent() == CLEAN, evening.said
    assert evening.left == []
    receipt = json.loads((evening.ledger.folder / "teardown.json").read_text())
    assert receipt["verified"] is True
    assert receipt["looks"][0]["calls"][:3] == ["account", "machines", "leftovers"]
    assert receipt["account"] == "123456789012"
    calls = evening.aws.calls
    assert calls.count("RunInstances") == 1
    printed = dry.made("aws", evening.request.profile, "scaling", 1_800_000_000, 3600)
    named = [re.match(r"in us-east-1, [\w-]+: (\w+) ", request) for request in printed]
    assert [one and one[1] for one in named] == calls[: calls.index("RunInstances") + 1], "a dry run prints them all"
    assert any("PCIe only" in line for line in evening.said)
    assert SECRET not in "".join(path.read_text() for path in evening.ledger.folder.iterdir())


@pytest.mark.slow
def test_rights_to_list_are_tried_before_renting(tmp_path: Path) -> None:
    """What cannot be listed could never be proven gone."""
    listing = ["DescribeInstances", *(kind[0].title().replace("_", "") for kind in KINDS.values())]
    evening = AwsEvening(tmp_path)
    with evening.aws.running():
        for operation in listing:
            evening.aws.denied = {operation}
            assert evening.go() == BAD_INPUT
            assert f"{re.sub('(?<!^)(?=[A-Z])', '_', operation).lower()} in us-east-1: Unauth" in evening.said[-1]
            assert "aws/iam-policy.json" in evening.said[-1]
    assert not [call for call in evening.aws.calls if call.startswith(("Run", "Create"))]
    assert not (tmp_path / "results").exists()


FIRST = ("no_quota", "volume_left")  # the others are slow


def some_slow(faults: tuple[str, ...], fast: tuple[str, ...]) -> list[Any]:
    """moto takes half a second for a renting: a few are fast, all of them run where slow tests do."""
    return [pytest.param(fault, marks=() if fault in fast else pytest.mark.slow) for fault in faults]


@pytest.mark.slow
@pytest.mark.parametrize("fault", some_slow(FAULTS, FIRST))
def test_each_fault(fault: str, tmp_path: Path) -> None:
    evening = AwsEvening(tmp_path, frozenset({fault}))
    code = evening.rent()
    assert code == CODES.get(fault, CLEAN), evening.said
    assert code == BILLING or evening.left == []
    if code == BILLING:
        assert "aws ec2 terminate-instances --region us-east-1" in "\n".join(evening.said)
    if fault == "no_quota":
        assert "aws service-quotas request-service-quota-increase" in "\n".join(evening.said)


@pytest.mark.slow
@settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(faults=st.frozensets(st.sampled_from(FAULTS), max_size=4), interrupt_at=st.none() | st.integers(1, 40))
def test_any_faults_together_and_ctrl_c_at_any_pause(faults: frozenset[str], interrupt_at: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        evening = AwsEvening(Path(folder), faults, interrupt_at)
        try:
            code = evening.rent()
        except KeyboardInterrupt:  # pressed while ending: the process dies and the watchdog, which was not told, acts
            assert evening.held.told == []
            return
        assert code == BILLING or evening.left == [], (sorted(faults), code, evening.said)
        if "RunInstances" in evening.aws.calls:
            assert evening.ledger.closed == (code != BILLING), "the receipt says what the exit code says"
            assert evening.held.told == (["closed"] if code == BILLING else ["done"])


UNSEEN = ("terminate_ignored", "terminate_throttled_for_ever", "volume_left", "address_left")


@pytest.mark.parametrize("fault", some_slow(UNSEEN, ("volume_left",)))
def test_without_the_proof_the_property_is_violated(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown, "end", blind)
    monkeypatch.setattr(launch, "end", blind)
    evening = AwsEvening(tmp_path, frozenset({fault}))
    assert evening.rent() != BILLING
    assert [one for one in evening.left if not one.startswith("sg-")]


@pytest.mark.slow
def test_killed_at_every_kind_of_step_that_changes_something(tmp_path: Path) -> None:
    def killed(at: int) -> tuple[Kill, AwsEvening]:
        folder = tmp_path / str(at)
        folder.mkdir()
        evening, kill = AwsEvening(folder), Kill(at)
        evening.aws.step = kill.step
        with evening.aws.running(), run_until_killed(kill, lambda: go(evening.request, evening.world)):
            take_over(evening, Aws(SPEC, evening.clock), kill.steps[-1])
            assert evening.aws.ours() == [], kill.steps[-1]
            assert evening.aws.others_live()
        return kill, evening

    whole, _ = killed(10**9)
    # Before a step everything is as it was after the last one that changed something, so after each is enough; of every
    # kind the first. All of them are killed at Runpod.
    kinds = {name for name in whole.steps if re.match(r"after (?!Describe|Get)", name)}
    steps = sorted(whole.steps.index(name) + 1 for name in kinds)
    done = {whole.steps[at - 1].removeprefix("after ") for at in steps}
    assert {"intent", "creating", "CreateSecurityGroup", "RunInstances", "created", "TerminateInstances"} <= done
    for at in steps:
        killed(at)


@pytest.mark.slow
def test_verify_and_sweep_find_a_forgotten_region(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clock = TestClock()
    fake = FakeAws(clock)
    name = f"llmlab-x-abcdef-dl{int(clock.now()) - 60}"
    tags = [{"Key": "lab-id", "Value": "abcdef"}, {"Key": "Name", "Value": name}]
    both = [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")]

    def verb(*words: str) -> int:
        setting = Setting(clock=clock, pauses=Pauses(insist_s=60))
        return main("aws", PROFILES, [*words, "--yes", "--results-dir", str(tmp_path)], setting)

    with fake.running():
        far = Aws(SPEC).client("ec2", "us-west-2")
        far.run_instances(
            ImageId=fake.image, InstanceType="g6e.12xlarge", MinCount=1, MaxCount=1, TagSpecifications=both
        )
        assert verb("verify") == CLEAN
        assert "(in us-east-1; --all-regions looks in all)" in capfd.readouterr().err, "of no other it says anything"
        assert verb("verify", "--all-regions") == BILLING
        said = capfd.readouterr().err
        assert f"({name}) BILLS at $11.50 per hour" in said, "its region's price, not the table's"
        assert "aws ec2 terminate-instances --region us-west-2" in said
        assert verb("sweep", "--all-regions") == CLEAN
        assert verb("verify", "--all-regions") == CLEAN
        assert fake.others_live()


@pytest.mark.slow
def test_a_region_without_the_type(tmp_path: Path) -> None:
    evening = AwsEvening(tmp_path, region="eu-west-3")
    assert evening.rent() == NO_CAPACITY
    assert "eu-west-3 has no g6e.12xlarge: another --region" in evening.said[-1]
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_down_looks_where_the_machine_was_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A look at another region would find nothing there and call that proof."""
    clock = TestClock()
    fake = FakeAws(clock)
    marks = Marks("up", "abcdef", int(clock.now()) + 3600)
    tags = [{"Key": "lab-id", "Value": "abcdef"}, {"Key": "Name", "Value": marks.name}]
    folder = tmp_path / "cloud" / "renting"
    folder.mkdir(parents=True)
    ledger = Ledger(folder)
    about = {"purpose": "up", "lab_id": "abcdef", "deadline": marks.deadline, "provider": "aws", "usd_per_hour": 10.5}
    ledger.write("intent", clock.now(), **about, region="us-west-2")
    with fake.running():
        far = Aws(SPEC).client("ec2", "us-west-2")
        both = [{"ResourceType": "instance", "Tags": tags}]
        order = {"ImageId": fake.image, "InstanceType": "g6e.12xlarge", "MinCount": 1, "MaxCount": 1}
        made = far.run_instances(**order, TagSpecifications=both)["Instances"][0]["InstanceId"]
        ledger.write("created", clock.now(), id=made)
        setting = Setting(clock=clock, pauses=Pauses(insist_s=60))
        words = ["--yes", "--results-dir", str(tmp_path), "--region", "us-east-1"]
        assert main("aws", PROFILES, ["verify", *words], setting) == BILLING
        ledger.write("intent", clock.now(), **about, region="us-west-2", account="999999999999")
        for verb in ("verify", "down"):
            assert main("aws", PROFILES, [verb, *words], setting) == BILLING
            said = capfd.readouterr().err
            assert "account 999999999999, and these credentials are of 123456789012" in said
            assert f"aws ec2 terminate-instances --region us-west-2 --instance-ids {made}" in said, "where it was made"
        ledger.write("intent", clock.now(), **about, region="us-west-2", account="123456789012")
        assert main("aws", PROFILES, ["down", "--discard", *words], setting) == CLEAN
        (gone,) = far.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"]
        assert gone["State"]["Name"] == "terminated"
    assert ledger.closed


class Far:
    """EC2 of one region: it has one instance, none, or does not answer."""

    def __init__(self, held: str | None, answers: bool = True) -> None:
        self.held, self.answers, self.ended = held, answers, list[str]()

    def describe_instances(self, InstanceIds: list[str]) -> object:
        self._check(InstanceIds)
        one = {"InstanceId": self.held, "InstanceType": "g6e.12xlarge", "State": {"Name": "terminated"}}
        return {"Reservations": [{"Instances": [one]}]}

    def terminate_instances(self, InstanceIds: list[str]) -> None:
        self._check(InstanceIds)
        self.ended += InstanceIds

    def _check(self, ids: list[str]) -> None:
        code = "UnauthorizedOperation" if not self.answers else "InvalidInstanceID.NotFound"
        if ids != [self.held]:
            raise ClientError({"Error": {"Code": code, "Message": "planted"}}, "x")


def test_a_region_that_does_not_answer_stands_in_the_way_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog, which knows an instance by its id alone, looks in each region where something is open."""
    far = {"eu-west-1": Far(None, answers=False), "us-east-1": Far("i-1"), "us-west-2": Far(None)}
    monkeypatch.setattr(Aws, "client", lambda self, service, region, tries=4: far[region])
    aws = Aws(SPEC | {"regions": sorted(far)})
    with pytest.raises(DeniedError):
        aws.terminate("i-1")
    assert far["us-east-1"].ended == ["i-1"]
    with pytest.raises(DeniedError):
        aws.get("i-2")
    found = Aws(SPEC | {"regions": sorted(far)}).get("i-1")
    assert found is not None
    assert found.state == "gone"


def test_an_answer_that_is_not_what_aws_describes_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = SimpleNamespace(describe_instances=lambda **_: {"Reservations": []})
    monkeypatch.setattr(Aws, "client", lambda self, service, region, tries=4: strange)
    with pytest.raises(UnansweredError):
        Aws(SPEC).get("i-1")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("volume", "delete-volume --region us-west-2 --volume-id x-1"),
        ("address", "release-address --region us-west-2 --allocation-id x-1"),
        ("spot request", "cancel-spot-instance-requests --region us-west-2 --spot-instance-request-ids x-1"),
        ("security group", "delete-security-group --region us-west-2 --group-id x-1"),
    ],
)
def test_what_is_left_is_named_with_the_command_that_removes_it(kind: str, said: str) -> None:
    line = Aws(SPEC).clear_by_hand(Leftover(kind, "us-west-2/x-1", "llmlab-x"))
    assert line.startswith(f"aws ec2 {said} ")
    assert "region=us-west-2" in line


def test_doctor_tells_the_quota_and_how_to_ask_for_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fake = FakeAws(TestClock(), frozenset({"no_quota"}))
    with fake.running():
        assert main("aws", PROFILES, ["doctor"], Setting(clock=fake.clock)) == 2
    said = capfd.readouterr().err
    assert "MISSING quota of G and VT instances in us-east-1: 0 vCPUs; 48 are needed" in said
    assert "--quota-code L-417A185B --desired-value 96" in said
    assert "ok      the account lists its machines: 1" in said
