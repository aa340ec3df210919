"""AWS by boto3: the calls of the seam. What describe calls list, by tag, is the truth.

The instance dies by its own shutdown (`InstanceInitiatedShutdownBehavior=terminate`), its volume and interface with
it. No address is allocated and no key pair is made, so nothing can be left of them; both are looked for all the same.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from common.cloud.aws_credentials import session_of
from common.cloud.aws_errors import NoSuchInstanceError, explained
from common.cloud.aws_leftovers import KINDS, clear, clear_command, leftovers
from common.cloud.aws_order import (
    IMAGE,
    SUBNETS,
    UBUNTUS,
    group_request,
    instance_request,
    offers_question,
    rule_request,
    run_request,
    security_group,
    zones_question,
)
from common.cloud.aws_price import QUOTAS, check_quota, live_price, price_question, quota_line, quota_question
from common.cloud.clock import Clock
from common.cloud.errors import NotMadeError, ProviderError, Refused
from common.cloud.marks import TAG_ID
from common.cloud.prices import TABLE_REGION, disk_usd_per_hour, find
from common.cloud.profiles import Profile
from common.cloud.provider import Finding, Leftover, Machine, Order, Quote, State

STATES: dict[str, State] = {
    **{"pending": "starting", "running": "running", "shutting-down": "stopped", "stopping": "stopped"},
    **{"stopped": "stopped", "terminated": "gone"},
}
CONSOLE = "https://console.aws.amazon.com/ec2/home"
ANSWER_S = 45


class Aws:
    """One account, in the regions that are looked at: the launch region, those of open rentings, or all of them."""

    kind = "aws"

    def __init__(self, spec: Mapping[str, Any], clock: Clock | None = None) -> None:
        self._boto = session_of(spec)
        self._clock = clock or Clock()
        self.region = str(spec["region"])
        self._known_regions = sorted({self.region, *spec.get("regions", ())})
        self._all_regions = bool(spec.get("all_regions"))
        self._clients: dict[tuple[str, str, int], Any] = {}
        self._where: dict[str, str] = {}
        self._prices: dict[str, float] = {}
        self._account: str | None = None

    def account(self) -> str:
        """The account's number; STS answers to any credentials."""
        if self._account is None:
            with explained("whose credentials these are"):
                self._account = str(self.client("sts", self.region).get_caller_identity()["Account"])
        return self._account

    def quote(self, profile: Profile) -> Quote:
        """Live on-demand price; quota and offer of the type are checked first."""
        region = profile.region or self.region
        check_quota(self.client("service-quotas", region), profile, region)
        with explained("instance types"):
            answer = self.client("ec2", region).describe_instance_type_offerings(**offers_question(profile.gpu))
        if not answer["InstanceTypeOfferings"]:
            raise NotMadeError(f"{region} has no {profile.gpu}: another --region (us-east-1 and us-west-2 have most)")
        usd = self._price(profile.gpu, region) + disk_usd_per_hour("aws", profile.disk_gb)
        skew_s = _skew_s(answer, self._clock.now())
        return Quote(usd, "on-demand", True, f"{region}, offered; capacity shows at the launch", skew_s)

    def create(self, order: Order) -> Machine:
        """RunInstances, sent once."""
        region = order.profile.region or self.region
        ec2, once = self.client("ec2", region), self.client("ec2", region, tries=1)
        with explained("preparing the launch"):
            group = security_group(ec2, order)
            request = instance_request(ec2, self.client("ssm", region), order, group)
        with explained("run_instances"):
            made = once.run_instances(**request)["Instances"][0]
        return replace(self._machine(made, region), usd_per_hour=None)  # the reply names no price

    def get(self, machine_id: str) -> Machine | None:
        """One instance, in the region where it was made, or wherever it is; whether it dies whole is read back."""

        def look(region: str) -> Machine:
            ec2 = self.client("ec2", region)
            with explained("describe_instances"):
                instance = ec2.describe_instances(InstanceIds=[machine_id])["Reservations"][0]["Instances"][0]
                found = self._machine(instance, region)
                if not found.bills:
                    return found
                ends = _dies_whole(ec2, instance)
            usd = self._price(str(instance["InstanceType"]), region)  # of the type that runs, whatever was ordered
            return replace(found, usd_per_hour=usd, ends_itself=ends)

        return self._wherever_it_is(machine_id, look)

    def machines(self) -> list[Machine]:
        """All instances of the regions."""
        found = []
        for region in self._regions():
            with explained(f"describe_instances in {region}"):
                pages = self.client("ec2", region).get_paginator("describe_instances").paginate()
                instances = [one for page in pages for held in page["Reservations"] for one in held["Instances"]]
                found += [self._machine(one, region) for one in instances]
        return found

    def terminate(self, machine_id: str) -> None:
        """Ask for the end, wherever the instance is."""

        def end(region: str) -> None:
            with explained("terminate_instances"):
                self.client("ec2", region).terminate_instances(InstanceIds=[machine_id])

        self._wherever_it_is(machine_id, end)

    def leftovers(self) -> list[Leftover]:
        """Volumes, interfaces, addresses, snapshots, spot requests; groups, which cost nothing, of ours only."""
        return [one for region in self._regions() for one in leftovers(self.client("ec2", region), region)]

    def clear(self, leftover: Leftover) -> None:
        """Remove one of ours."""
        region, _, name = leftover.id.partition("/")
        with explained(f"removing {leftover.kind}"):
            clear(self.client("ec2", region), leftover.kind, name)

    def bill(self, machine_id: str) -> float | None:
        """Not asked: Cost Explorer lags a day and each question costs a cent."""
        return None

    def by_hand(self, machine_id: str, region: str | None = None) -> str:
        """With the command line, or on the page of the region."""
        region = self._where.get(machine_id) or region or self.region
        command = f"aws ec2 terminate-instances --region {region} --instance-ids {machine_id}"
        return f"{command}   or by hand: {CONSOLE}?region={region}#Instances:"

    def clear_by_hand(self, leftover: Leftover) -> str:
        """The same for a leftover."""
        region, _, name = leftover.id.partition("/")
        return f"{clear_command(leftover.kind, name, region)}   or by hand: {CONSOLE}?region={region}"

    @property
    def scope(self) -> str:
        """Its regions."""
        all_of_them = "in all its regions"
        return all_of_them if self._all_regions else f"in {', '.join(self._known_regions)}; --all-regions looks in all"

    def state_of_account(self) -> list[Finding]:
        """Quotas of the launch region."""
        return [quota_line(self.client("service-quotas", self.region), self.region, *one) for one in QUOTAS]

    def requests(self, order: Order) -> list[str]:
        """See `requests_of`."""
        return requests_of(order)

    def client(self, service: str, region: str, tries: int = 4) -> Any:  # noqa: ANN401  # boto3 has no types
        """A client of a service, made once."""
        from botocore.config import Config

        key = service, region, tries
        if key not in self._clients:
            retries = {"total_max_attempts": tries, "mode": "standard"}
            config = Config(retries=retries, connect_timeout=15, read_timeout=ANSWER_S)
            with explained(f"reaching {service}"):
                self._clients[key] = self._boto.client(service, region_name=region, config=config)
        return self._clients[key]

    def _regions(self) -> list[str]:
        if not self._all_regions:
            return self._known_regions
        with explained("describe_regions"):
            return sorted(one["RegionName"] for one in self.client("ec2", self.region).describe_regions()["Regions"])

    def _regions_of(self, machine_id: str) -> list[str]:
        return [self._where[machine_id]] if machine_id in self._where else self._regions()

    def _wherever_it_is(self, machine_id: str, ask: Callable[[str], Machine | None]) -> Machine | None:
        """The first answer of its regions: one that fails stands in the way of no other, and counts if none answers."""
        failed: ProviderError | None = None
        for region in self._regions_of(machine_id):
            try:
                with contextlib.suppress(NoSuchInstanceError):
                    if (found := ask(region)) is not None:
                        return found
            except ProviderError as error:  # it may be in the next one
                failed = error
        if failed is not None:
            raise failed
        return None

    def _price(self, instance_type: str, region: str) -> float:
        key = f"{region}/{instance_type}"
        if key not in self._prices:
            self._prices[key] = live_price(self.client("pricing", "us-east-1"), instance_type, region)
        return self._prices[key]

    def _listed_price(self, instance_type: str, region: str, ours: bool) -> float | None:
        """The dated price in the region that the table is of; elsewhere the live one, asked for what is ours only."""
        if region == TABLE_REGION:
            return _dated(instance_type)
        with contextlib.suppress(ProviderError):
            return self._price(instance_type, region) if ours else None
        return None

    def _machine(self, instance: Mapping[str, Any], region: str) -> Machine:
        """As a list has it."""
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        machine_id, kind = str(instance["InstanceId"]), str(instance.get("InstanceType"))
        self._where[machine_id] = region
        state = STATES.get(str(instance.get("State", {}).get("Name")), "stopped")
        host = instance.get("PublicIpAddress")
        usd = self._listed_price(kind, region, TAG_ID in tags and state != "gone")
        return Machine(machine_id, tags.get("Name", ""), state, usd, host, 22, tags.get(TAG_ID))


def requests_of(order: Order) -> list[str]:
    """What a launch asks, in order, without a network."""
    profile = order.profile
    region = profile.region or TABLE_REGION
    listed = find("aws", profile.gpu)
    run = run_request(order, "<the image's id>", "<its root device>", "<a default subnet>", "<the group's id>")
    asked: list[tuple[str, dict[str, Any]]] = [
        ("service-quotas: GetServiceQuota", dict(quota_question(str(listed.quota_code)))),
        ("ec2: DescribeInstanceTypeOfferings", offers_question(profile.gpu)),
        ("pricing: GetProducts", price_question(profile.gpu, region)),
        ("sts: GetCallerIdentity", {}),
        ("ec2: DescribeInstances", {}),
        *((f"ec2: {kind[0].title().replace('_', '')}", kind[3]) for kind in KINDS.values()),
        ("ec2: CreateSecurityGroup", group_request(order)),
        ("ec2: AuthorizeSecurityGroupIngress", rule_request("<the group's id>")),
        ("ssm: GetParameter", {"Name": IMAGE.format(UBUNTUS[0])}),
        ("ec2: DescribeImages", {"ImageIds": ["<the image's id>"]}),
        ("ec2: DescribeInstanceTypeOfferings", zones_question(profile.gpu)),
        ("ec2: DescribeSubnets", SUBNETS),
        ("ec2: RunInstances", run),
    ]
    return [f"in {region}, {operation} {json.dumps(arguments, indent=1)}" for operation, arguments in asked]


def _dies_whole(ec2: Any, instance: Mapping[str, Any]) -> bool:  # noqa: ANN401  # boto3 has no types
    """Whether its shutdown is its end, and its disks' end."""
    asked = {"InstanceId": instance["InstanceId"], "Attribute": "instanceInitiatedShutdownBehavior"}
    behaviour = ec2.describe_instance_attribute(**asked)["InstanceInitiatedShutdownBehavior"]["Value"]
    disks = [one["Ebs"] for one in instance.get("BlockDeviceMappings", []) if "Ebs" in one]
    return behaviour == "terminate" and all(disk.get("DeleteOnTermination") for disk in disks)


def _dated(instance_type: str) -> float | None:
    try:
        return find("aws", instance_type).usd_per_hour
    except Refused:
        return None


def _skew_s(answer: Mapping[str, Any], now: float) -> float:
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return email.utils.parsedate_to_datetime(text).timestamp() - now if text else 0.0
