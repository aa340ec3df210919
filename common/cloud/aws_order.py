"""The launch of an EC2 instance, as a request."""

from __future__ import annotations

from typing import Any

from common.cloud.aws_errors import code_of
from common.cloud.errors import NotMadeError
from common.cloud.marks import TAG_DEADLINE, TAG_ID
from common.cloud.provider import Order

IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-{}/latest/ami-id"
UBUNTUS = ("24.04", "22.04")
SUBNETS = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}


def tags(order: Order) -> list[dict[str, str]]:
    """Name, lab id and deadline."""
    marks = order.marks
    found = {"Name": marks.name, TAG_ID: marks.lab_id, TAG_DEADLINE: str(marks.deadline)}
    return [{"Key": key, "Value": value} for key, value in found.items()]


def security_group(ec2: Any, order: Order) -> str:  # noqa: ANN401  # boto3 has no types
    """A group of this renting that lets ssh in; it costs nothing and is removed with the machine."""
    from botocore.exceptions import ClientError

    try:
        made = ec2.create_security_group(**group_request(order))
    except ClientError as error:
        if code_of(error) != "InvalidGroup.Duplicate":
            raise
        filters = [{"Name": "group-name", "Values": [order.marks.name]}]
        return str(ec2.describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"])
    ec2.authorize_security_group_ingress(**rule_request(made["GroupId"]))
    return str(made["GroupId"])


def group_request(order: Order) -> dict[str, Any]:
    """The arguments of `create_security_group`."""
    kept = {"ResourceType": "security-group", "Tags": tags(order)}
    about = {"GroupName": order.marks.name, "Description": "ssh to one rented machine"}
    return {**about, "TagSpecifications": [kept]}


def rule_request(group: str) -> dict[str, Any]:
    """The arguments of `authorize_security_group_ingress`: port 22, for the key that cloud-init lets in."""
    everyone = [{"CidrIp": "0.0.0.0/0", "Description": "ssh, keys only"}]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": everyone}
    return {"GroupId": group, "IpPermissions": [rule]}


def instance_request(ec2: Any, ssm: Any, order: Order, group: str) -> dict[str, Any]:  # noqa: ANN401
    """`run_request` with what the region tells of image and network; each attempt tries another availability zone.

    Raises:
        NotMadeError: no image, one whose own disk is larger than the one that was ordered, or no default network.
    """
    profile = order.profile
    image_id = _image_id(ssm)
    image = ec2.describe_images(ImageIds=[image_id])["Images"][0]
    root = image["RootDeviceName"]
    mappings = [one for one in image.get("BlockDeviceMappings", []) if one.get("DeviceName") == root]
    least = max((int(one["Ebs"].get("VolumeSize", 0)) for one in mappings if "Ebs" in one), default=0)
    if profile.disk_gb < least:
        raise NotMadeError(f"the image needs a disk of {least} GB: --disk-gb {least} or more")
    return run_request(order, image_id, root, _subnet(ec2, profile.gpu, order.attempt), group)


def run_request(order: Order, image_id: str, root: str, subnet: str, group: str) -> dict[str, Any]:
    """The arguments of `run_instances`; `root` is the image's root device."""
    profile = order.profile
    disk = {"VolumeSize": profile.disk_gb, "VolumeType": "gp3", "DeleteOnTermination": True}
    interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": True, "Groups": [group], "DeleteOnTermination": True}
    interface["SubnetId"] = subnet
    marked = [{"ResourceType": kind, "Tags": tags(order)} for kind in ("instance", "volume", "network-interface")]
    return {
        **{"ImageId": image_id, "InstanceType": profile.gpu, "MinCount": 1, "MaxCount": 1},
        "ClientToken": f"{order.marks.name}-{order.attempt}",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "BlockDeviceMappings": [{"DeviceName": root, "Ebs": disk}],
        "NetworkInterfaces": [interface],
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": marked,
        "UserData": order.start,
    }


def offers_question(instance_type: str) -> dict[str, Any]:
    """The arguments of `describe_instance_type_offerings`: does the region have the type."""
    return {"Filters": [{"Name": "instance-type", "Values": [instance_type]}]}


def zones_question(instance_type: str) -> dict[str, Any]:
    """The same for its zones."""
    return {"LocationType": "availability-zone", **offers_question(instance_type)}


def _image_id(ssm: Any) -> str:  # noqa: ANN401  # boto3 has no types
    """AWS's own image with NVIDIA's driver, the newest there is."""
    from botocore.exceptions import ClientError

    for ubuntu in UBUNTUS:
        try:
            return str(ssm.get_parameter(Name=IMAGE.format(ubuntu))["Parameter"]["Value"])
        except ClientError as error:
            if code_of(error) != "ParameterNotFound":
                raise
    raise NotMadeError("this region names no deep-learning image with NVIDIA's driver: another --region")


def _subnet(ec2: Any, instance_type: str, attempt: int) -> str:  # noqa: ANN401  # boto3 has no types
    """A default subnet in a zone that offers the type."""
    offers = ec2.describe_instance_type_offerings(**zones_question(instance_type))
    zones = {one["Location"] for one in offers["InstanceTypeOfferings"]}
    subnets = ec2.describe_subnets(**SUBNETS)["Subnets"]
    fitting = sorted((one["AvailabilityZone"], one["SubnetId"]) for one in subnets if one["AvailabilityZone"] in zones)
    if not fitting:
        raise NotMadeError("no zone with a default subnet offers this type: aws ec2 create-default-vpc")
    return str(fitting[attempt % len(fitting)][1])
