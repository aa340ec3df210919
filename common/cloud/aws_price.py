"""Live price and quota of an instance type."""

from __future__ import annotations

import json
from typing import Any

from common.cloud.aws_errors import explained
from common.cloud.errors import NotMadeError, UnansweredError
from common.cloud.profiles import Profile


def check_quota(quotas: Any, profile: Profile, region: str) -> None:  # noqa: ANN401  # boto3 has no types
    """Check that the account may run so many vCPUs; new accounts may run none.

    Raises:
        NotMadeError: it may not; the message has the command that asks for more.
    """
    listed = profile.listed
    if listed.quota_code is None or listed.vcpus is None:
        return
    with explained("quota"):
        value = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=listed.quota_code)["Quota"]["Value"]
    if value < listed.vcpus:
        ask = f"aws service-quotas request-service-quota-increase --region {region} --service-code ec2"
        raise NotMadeError(
            f"the quota in {region} is {value:.0f} vCPUs and {profile.gpu} has {listed.vcpus}: ask days before with"
            f" `{ask} --quota-code {listed.quota_code} --desired-value {listed.vcpus}`"
        )


def live_price(pricing: Any, instance_type: str, region: str) -> float:  # noqa: ANN401  # boto3 has no types
    """Dollars per hour on demand: Linux, shared tenancy.

    Raises:
        UnansweredError: AWS names no price, or several.
    """
    wanted = {
        **{"instanceType": instance_type, "regionCode": region, "operatingSystem": "Linux", "tenancy": "Shared"},
        **{"preInstalledSw": "NA", "capacitystatus": "Used"},
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    with explained("price"):
        listed = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    prices = set()
    for text in listed:
        product = json.loads(text) if isinstance(text, str) else text
        for term in product.get("terms", {}).get("OnDemand", {}).values():
            dimensions = term["priceDimensions"].values()
            prices |= {float(one["pricePerUnit"]["USD"]) for one in dimensions if one["unit"] == "Hrs"}
    prices.discard(0.0)
    if len(prices) != 1:
        raise UnansweredError(f"AWS names {len(prices)} prices for {instance_type} in {region}, and one is needed")
    return prices.pop()
