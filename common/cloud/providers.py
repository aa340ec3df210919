"""A provider from what names it: JSON that travels through a pipe, never a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from common.cloud.caps import clock_time
from common.cloud.clock import Clock
from common.cloud.errors import Refused
from common.cloud.provider import Provider
from common.cloud.runpod import URL, Runpod

KEY = re.compile(r"[\x21-\x7e]{8,300}")
SAFE_URL = re.compile(r"https://[\w.-]+|http://127\.0\.0\.1:\d+")
WHERE = (
    "make one at https://console.runpod.io/user/settings (Restricted: Pods read and write;"
    " Network volumes, Clusters and Billing read), then export RUNPOD_API_KEY"
)


def provider_from(spec: Mapping[str, Any], clock: Clock | None = None) -> Provider:
    """The provider that `spec` means: `{"kind": "runpod", "key": ..., "url": ...}` or `{"kind": "aws", ...}`.

    Raises:
        Refused: it cannot be asked from here.
    """
    if spec["kind"] == "aws":
        from common.cloud.aws import Aws

        return Aws(spec, clock)
    url = str(spec.get("url", URL))
    if not SAFE_URL.fullmatch(url):
        raise Refused(f"{url}: a key is only sent over https")
    return Runpod(str(spec["key"]), clock, url)


def check_key(kind: str) -> None:
    """Look for credentials in this machine's own places only: what boto3 finds may be fetched from a network.

    Raises:
        Refused: there are none.
    """
    if kind == "aws":
        from common.cloud.aws_credentials import check_credentials

        check_credentials()
    else:
        spec_of(kind)


def check_lasts(spec: Mapping[str, Any], until: float) -> str | None:
    """Hold temporary credentials against the time for which they are needed; a warning where they do not tell.

    Raises:
        Refused: they end before.
    """
    if not spec.get("token"):
        return None
    also = "; surer is a key that does not end, of a user with aws/iam-policy.json"
    ends = spec.get("expires")
    if ends is None:
        return (
            f"WARNING: these AWS credentials are temporary and do not tell until when. Should they end before"
            f" {clock_time(until)}, neither this command nor the watchdog can end the machine: only its own timer{also}"
        )
    if ends < until:
        raise Refused(
            f"these AWS credentials end at {clock_time(ends)} and are needed until {clock_time(until)}, to end the"
            f" machine and prove it: log in again (aws sso login), ask for longer sessions, or lower --max-hours{also}"
        )
    return None


def spec_of(kind: str, region: str | None = None, url: str | None = None) -> dict[str, Any]:
    """What names the account of this environment, secrets included.

    Raises:
        Refused: no key, or a broken one; it is never repeated.
    """
    if kind == "aws":
        from common.cloud.aws_credentials import spec_of_environment

        return spec_of_environment(region)
    key = os.environ.get("RUNPOD_API_KEY", "")
    if not key:
        raise Refused(f"RUNPOD_API_KEY is not set: {WHERE}")
    if not KEY.fullmatch(key):
        raise Refused("RUNPOD_API_KEY holds a space, a line end or something else that no key has: copy it again")
    return {"kind": "runpod", "key": key} | ({} if url is None else {"url": url})
