"""What can be left of an instance, and go on costing: asked for kind by kind, all of it or the call fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.cloud.aws_errors import explained
from common.cloud.marks import TAG_ID
from common.cloud.provider import Leftover

# kind: operation, key of the answer, key of the id, other arguments
KINDS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "volume": ("describe_volumes", "Volumes", "VolumeId", {}),
    "network interface": ("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId", {}),
    "address": ("describe_addresses", "Addresses", "AllocationId", {}),
    "snapshot": (
        *("describe_snapshots", "Snapshots", "SnapshotId"),
        {"OwnerIds": ["self"], "Filters": [{"Name": "tag-key", "Values": [TAG_ID]}]},
    ),
    "spot request": ("describe_spot_instance_requests", "SpotInstanceRequests", "SpotInstanceRequestId", {}),
    "security group": (
        *("describe_security_groups", "SecurityGroups", "GroupId"),
        {"Filters": [{"Name": "tag-key", "Values": [TAG_ID]}]},
    ),
}
OVER = ("closed", "cancelled", "failed", "completed")  # spot requests that cost nothing any more


def leftovers(ec2: Any, region: str) -> list[Leftover]:  # noqa: ANN401  # boto3 has no types
    """Everything of these kinds in a region; an id is written `region/id`."""
    found = []
    for kind, (operation, key, id_key, arguments) in KINDS.items():
        with explained(f"{operation} in {region}"):
            for entry in _entries(ec2, operation, key, arguments):
                tags = {tag["Key"]: tag["Value"] for tag in entry.get("Tags", entry.get("TagSet", []))}
                if entry.get("State") in OVER or entry.get("State") == "deleted":
                    continue
                name = tags.get("Name", "")
                found.append(Leftover(kind, f"{region}/{entry.get(id_key)}", name, tags.get(TAG_ID)))
    return found


def clear(ec2: Any, kind: str, name: str) -> None:  # noqa: ANN401  # boto3 has no types
    """Remove one."""
    operation, arguments = _removal(kind, name)
    getattr(ec2, operation)(**arguments)


def clear_command(kind: str, name: str, region: str) -> str:
    """The same as a command for a shell."""
    operation, arguments = _removal(kind, name)
    (argument,) = arguments
    option = re.sub(r"(?<!^)(?=[A-Z])", "-", argument).lower()
    return f"aws ec2 {operation.replace('_', '-')} --region {region} --{option} {name}"


def _removal(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "volume": ("delete_volume", {"VolumeId": name}),
        "network interface": ("delete_network_interface", {"NetworkInterfaceId": name}),
        "address": ("release_address", {"AllocationId": name}),
        "snapshot": ("delete_snapshot", {"SnapshotId": name}),
        "spot request": ("cancel_spot_instance_requests", {"SpotInstanceRequestIds": [name]}),
        "security group": ("delete_security_group", {"GroupId": name}),
    }
    return calls[kind]


def _entries(ec2: Any, operation: str, key: str, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    if not ec2.can_paginate(operation):
        yield from getattr(ec2, operation)(**arguments)[key]
        return
    for page in ec2.get_paginator(operation).paginate(**arguments):
        yield from page[key]
