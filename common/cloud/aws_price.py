"""Live price and quota of an instance type."""

from __future__ import annotations

import json
from typing import Any

from common.cloud.aws_errors import explained
from common.cloud.errors import NotMadeError, ProviderError, UnansweredError
from common.cloud.profiles import Profile

QUOTAS = (("L-DB2E81BA", "G and VT", 48), ("L-417A185B", "P", 96))  # code, family, vCPUs of its smallest profile
ASK = "aws service-quotas request-service-quota-increase --service-code ec2 --region {} --quota-code {}"
ASK += " --desired-value {}"


def quota_line(quotas: Any, region: str, code: str, family: str, vcpus: int) -> tuple[bool, str]:  # noqa: ANN401
    """Whether a quota is enough for the family's smallest profile, in words."""
    try:
        value = _quota(quotas, code)
    except ProviderError as error:
        return False, f"quota of {family} instances: {error}"
    enough = value >= vcpus
    ask = "" if enough else f"; {vcpus} are needed: {ASK.format(region, code, vcpus)}"
    return enough, f"quota of {family} instances in {region}: {value:.0f} vCPUs{ask}"


def check_quota(quotas: Any, profile: Profile, region: str) -> None:  # noqa: ANN401  # boto3 has no types
    """Check that the account may run so many vCPUs; new accounts may run none.

    Raises:
        NotMadeError: it may not; the message has the command that asks for more.
    """
    listed = profile.listed
    if listed.quota_code is None or listed.vcpus is None:
        return
    value = _quota(quotas, listed.quota_code)
    if value < listed.vcpus:
        ask = ASK.format(region, listed.quota_code, listed.vcpus)
        raise NotMadeError(
            f"the quota in {region} is {value:.0f} vCPUs and {profile.gpu} has {listed.vcpus}: ask days before: {ask}"
        )


def live_price(pricing: Any, instance_type: str, region: str) -> float:  # noqa: ANN401  # boto3 has no types
    """Dollars per hour on demand: Linux, shared tenancy.

    Raises:
        UnansweredError: AWS names no price, or several.
    """
    with explained("price"):
        listed = pricing.get_products(**price_question(instance_type, region))["PriceList"]
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


def price_question(instance_type: str, region: str) -> dict[str, Any]:
    """The arguments of `get_products`."""
    wanted = {
        **{"instanceType": instance_type, "regionCode": region, "operatingSystem": "Linux", "tenancy": "Shared"},
        **{"preInstalledSw": "NA", "capacitystatus": "Used"},
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    return {"ServiceCode": "AmazonEC2", "Filters": filters}


def quota_question(code: str) -> dict[str, str]:
    """The arguments of `get_service_quota`."""
    return {"ServiceCode": "ec2", "QuotaCode": code}


def _quota(quotas: Any, code: str) -> float:  # noqa: ANN401  # boto3 has no types
    with explained("quota"):
        return float(quotas.get_service_quota(**quota_question(code))["Quota"]["Value"])
