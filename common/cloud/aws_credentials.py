"""Whose AWS account: the credentials of this environment, found, taken over, and made a session of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cloud.errors import Refused
from common.cloud.prices import TABLE_REGION

NO_KEYS = "no AWS credentials: aws configure, or aws sso login; the rights are in aws/iam-policy.json"
INSTALL = "boto3 is not installed: pip install -e '.[cloud]'"


def check_credentials() -> None:
    """Look for boto3 and for credentials in the environment and in ~/.aws, without asking anybody.

    Raises:
        Refused: there are none.
    """
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise Refused(INSTALL) from error
    named = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    files = (Path.home() / ".aws" / "credentials", Path.home() / ".aws" / "config")
    if not any(map(os.environ.get, named)) and not any(file.is_file() for file in files):
        raise Refused(NO_KEYS)


def spec_of_environment(region: str | None) -> dict[str, Any]:
    """The account of this environment, with its secrets, as `Aws` takes it.

    Raises:
        Refused: boto3 or keys are missing.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise Refused(INSTALL) from error
    try:
        found = boto3.Session().get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except BotoCoreError as error:
        raise Refused(
            f"AWS credentials cannot be used ({type(error).__name__}): aws configure, or aws sso login"
        ) from None
    if frozen is None or not frozen.access_key:
        raise Refused(NO_KEYS)
    keys = {"access": frozen.access_key, "secret": frozen.secret_key, "token": frozen.token}
    ends = getattr(found, "_expiry_time", None)  # botocore tells it nowhere else
    expires = {} if ends is None else {"expires": ends.timestamp()}
    return {"kind": "aws", "region": region or TABLE_REGION, **keys, **expires}


def session_of(spec: Mapping[str, Any]) -> Any:  # noqa: ANN401  # boto3 has no types
    """A boto3 session with the credentials of `spec_of_environment`.

    Raises:
        Refused: boto3 is missing.
    """
    try:
        import boto3
    except ImportError as error:
        raise Refused(INSTALL) from error
    keys = {"aws_access_key_id": spec["access"], "aws_secret_access_key": spec["secret"]}
    return boto3.Session(**keys, aws_session_token=spec.get("token"), region_name=spec["region"])
