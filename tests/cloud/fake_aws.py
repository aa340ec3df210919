"""EC2 by moto, with what it lacks filled in (prices, quotas, the image's name) and faults planted in front of it."""

# ruff: noqa: ANN401  # boto3 has no types
from __future__ import annotations

import contextlib
import copy
import email.utils
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.client
from botocore.exceptions import ClientError, ReadTimeoutError

from common.cloud.aws import Aws
from common.cloud.clock import Clock

# moto reads these when it is imported; its own 1177 images, each with a snapshot, take a second per test.
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).with_name("amis.json"))
os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"

FAULTS = (
    *("no_capacity", "no_quota", "vcpu_limit", "create_throttled", "denied", "no_image", "no_newer_image"),
    *("reply_lost", "request_lost", "outlives_shutdown", "disk_stays", "not_visible_at_first"),
    *("terminate_throttled", "terminate_throttled_for_ever", "terminate_ignored"),
    *("slow_shutting_down", "shutting_down_for_ever"),
    *("volume_left", "address_left", "volumes_denied", "instances_500", "instances_500_at_first", "gone_in_mid_run"),
)
SECRET = "PLANTEDsecretPLANTEDsecretPLANTED0000000"
SPEC = {"kind": "aws", "access": "AKIAPLANTED", "secret": SECRET, "token": None, "region": "us-east-1"}
REGIONS = ("eu-west-1", "us-east-1", "us-west-2")
USD = {("g6e.12xlarge", ""): 10.49264, ("g6e.12xlarge", "us-west-2"): 11.5}  # anywhere, and in a region


@functools.cache
def client(service: str, region: str, tries: int) -> Any:
    """Made as the lab makes it, but once per process: reading the description of EC2's API takes half a second."""
    return MADE(Aws(SPEC), service, region, tries)


MADE = Aws.client


@functools.cache
def method_names(kind: type) -> list[str]:
    """moto looks through all methods of EC2 at every call, which is a tenth of what a renting takes."""
    from moto.core.utils import method_names_from_class

    return list(method_names_from_class(kind))


class FakeAws:
    """The account; `boto` answers through moto unless a fault or a gap is in the way."""

    def __init__(self, clock: Clock, faults: frozenset[str] = frozenset()) -> None:
        assert faults <= set(FAULTS), faults
        self.clock, self.faults = clock, faults
        self.calls: list[str] = []
        self.described: dict[tuple[str, str, str], Any] = {}
        self.others: set[str] = set()
        self.terminated: set[str] = set()
        self.denied: set[str] = set()
        self.creates_from = 10**9
        """The number of the call that was the first create: what is listed before it has no faults."""
        self.made_at = 0.0
        self.step: Callable[[str], None] = lambda _: None
        self.image = "ami-03cf127a"

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeAws]:
        from moto import mock_aws

        original = botocore.client.BaseClient._make_api_call

        def call(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
            self.step(f"before {operation}")
            answer = self._call(lambda: original(client, operation, arguments), client, operation, arguments)
            self.step(f"after {operation}")
            return answer

        def known(_: Aws, service: str, region: str, tries: int = 4) -> Any:
            return client(service, region, tries)

        quick = mock.patch("moto.core.responses.method_names_from_class", method_names)
        with mock_aws(), quick, mock.patch.object(Aws, "client", known):
            other = self.ec2().run_instances(ImageId=self.image, InstanceType="m5.large", MinCount=1, MaxCount=1)
            self.others = {other["Instances"][0]["InstanceId"]}
            with mock.patch.object(botocore.client.BaseClient, "_make_api_call", call):
                yield self

    def ec2(self) -> Any:
        return client("ec2", "us-east-1", 4)

    def ours(self) -> list[str]:
        """The truth, past all faults: instances, volumes and addresses with the lab's mark that exist."""
        with mock.patch.object(self, "faults", frozenset()):
            ec2 = self.ec2()
            held = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]
            found = [one["InstanceId"] for one in held if _marked(one) and one["State"]["Name"] != "terminated"]
            found += [one["VolumeId"] for one in ec2.describe_volumes()["Volumes"] if _marked(one)]
            groups = ec2.describe_security_groups()["SecurityGroups"]
            found += [one["GroupId"] for one in groups if _marked(one)]
            return found + [one["AllocationId"] for one in ec2.describe_addresses()["Addresses"] if _marked(one)]

    def pull_the_plug(self) -> None:
        """AWS takes our instances back, as it does with broken hosts."""
        with mock.patch.object(self, "faults", frozenset()):
            held = self.ec2().describe_instances()["Reservations"]
            self.ec2().terminate_instances(
                InstanceIds=[one["InstanceId"] for group in held for one in group["Instances"] if _marked(one)]
            )

    def others_live(self) -> bool:
        with mock.patch.object(self, "faults", frozenset()):
            held = self.ec2().describe_instances(InstanceIds=sorted(self.others))["Reservations"]
        return all(one["State"]["Name"] == "running" for group in held for one in group["Instances"])

    def _call(self, answer: Any, client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        self.calls.append(operation)
        if operation == "RunInstances":
            self.creates_from = min(self.creates_from, len(self.calls))
        count = self.calls[self.creates_from :].count(operation)
        gaps: dict[str, Callable[[], Any]] = {
            "GetServiceQuota": lambda: {"Quota": {"Value": 0.0 if "no_quota" in self.faults else 192.0}},
            "GetProducts": lambda: _products(arguments),
            "DescribeRegions": lambda: {"Regions": [{"RegionName": name} for name in REGIONS]},
            "GetParameter": lambda: self._parameter(arguments["Name"]),
        }
        if operation in gaps:
            return gaps[operation]()
        self._refuse(operation, count, "InstanceIds" in arguments)
        if operation == "TerminateInstances" and set(arguments["InstanceIds"]) & self.others:
            raise AssertionError("somebody else's instance")
        if operation == "TerminateInstances":
            again = set(arguments["InstanceIds"]) <= self.terminated  # moto stumbles over an interface that is gone
            if again or "terminate_ignored" in self.faults:
                return {}
            self.terminated |= set(arguments["InstanceIds"])
        made = self._answered(answer, client, operation, arguments)
        if operation == "RunInstances":
            self.made_at = self.clock.now()
            self._after_launch(client, arguments)
        if operation == "DescribeInstanceAttribute" and "outlives_shutdown" in self.faults:
            made["InstanceInitiatedShutdownBehavior"] = {"Value": "stop"}
        if operation == "DescribeInstances":
            self._bend(made, count)
        made.get("ResponseMetadata", {}).get("HTTPHeaders", {})["date"] = email.utils.formatdate(self.clock.now())
        return made

    def _answered(self, answer: Any, client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        """moto's answer; it takes some milliseconds, and what is described is the same until something is changed."""
        if not operation.startswith("Describe"):
            self.described.clear()
            return answer()
        asked = client.meta.region_name, operation, json.dumps(arguments, sort_keys=True)
        if asked not in self.described:
            self.described[asked] = answer()
        return copy.deepcopy(self.described[asked])

    def _parameter(self, name: str) -> Any:
        assert "base-oss-nvidia-driver-gpu-ubuntu" in name
        if "no_image" in self.faults or ("no_newer_image" in self.faults and "24.04" in name):
            raise ClientError({"Error": {"Code": "ParameterNotFound", "Message": "planted"}}, "GetParameter")
        return {"Parameter": {"Value": self.image}}

    def _refuse(self, operation: str, count: int, by_id: bool) -> None:
        if by_id and "not_visible_at_first" in self.faults and self.clock.now() < self.made_at + 20:
            raise ClientError({"Error": {"Code": "InvalidInstanceID.NotFound", "Message": "planted"}}, operation)
        errors = {
            "RunInstances": {
                "no_capacity": "InsufficientInstanceCapacity",
                "vcpu_limit": "VcpuLimitExceeded",
                "create_throttled": "RequestLimitExceeded",
                "denied": "UnauthorizedOperation",
            },
            "TerminateInstances": {
                "terminate_throttled_for_ever": "RequestLimitExceeded",
                **({"terminate_throttled": "RequestLimitExceeded"} if count < 4 else {}),
            },
            "DescribeVolumes": {"volumes_denied": "UnauthorizedOperation"},
            "DescribeInstances": {
                "instances_500": "InternalError",
                **({"instances_500_at_first": "InternalError"} if count < 5 else {}),
            },
        }
        if operation in self.denied:
            raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "planted"}}, operation)
        for fault, code in errors.get(operation, {}).items():
            if fault in self.faults and len(self.calls) >= self.creates_from:
                raise ClientError({"Error": {"Code": code, "Message": "planted"}}, operation)
        if operation == "RunInstances" and "request_lost" in self.faults:
            raise ReadTimeoutError(endpoint_url="https://ec2")

    def _after_launch(self, client: Any, arguments: dict[str, Any]) -> None:
        tags = arguments["TagSpecifications"][0]["Tags"]
        if "volume_left" in self.faults:
            kept = [{"ResourceType": "volume", "Tags": tags}]
            client.create_volume(AvailabilityZone="us-east-1a", Size=8, TagSpecifications=kept)
        if "address_left" in self.faults:
            client.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}])
        if "reply_lost" in self.faults:
            raise ReadTimeoutError(endpoint_url="https://ec2")

    def _bend(self, made: Any, count: int) -> None:
        """moto jumps from state to state; here instances take their time, or keep what they should not."""
        for one in (one for group in made["Reservations"] for one in group["Instances"] if _marked(one)):
            state = one["State"]["Name"]
            if "disk_stays" in self.faults:
                for disk in one.get("BlockDeviceMappings", []):
                    disk["Ebs"]["DeleteOnTermination"] = False
            slow = "slow_shutting_down" in self.faults and count < 14
            if state == "terminated" and (slow or "shutting_down_for_ever" in self.faults):
                one["State"]["Name"] = "shutting-down"


def _marked(one: dict[str, Any]) -> bool:
    return any(tag["Key"] == "lab-id" for tag in one.get("Tags", []))


def _products(arguments: dict[str, Any]) -> dict[str, Any]:
    wanted = {one["Field"]: one["Value"] for one in arguments["Filters"]}
    assert wanted["operatingSystem"] == "Linux"
    usd = USD.get((wanted["instanceType"], wanted["regionCode"]), USD.get((wanted["instanceType"], ""), 0.096))
    price = {"unit": "Hrs", "pricePerUnit": {"USD": str(usd)}}
    return {"PriceList": [json.dumps({"terms": {"OnDemand": {"a": {"priceDimensions": {"b": price}}}}})]}
