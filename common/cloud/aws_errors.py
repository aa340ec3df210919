"""What AWS answers, as the flow understands it: made nothing, denied, or not known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.cloud.errors import DeniedError, NotMadeError, UnansweredError

GONE = ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed")
NO_CAPACITY = ("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "Unsupported")
QUOTA = ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded")
DENIED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "AuthFailure", "OptInRequired")
BROKEN_KEY = ("InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "RequestExpired")
THROTTLED = ("RequestLimitExceeded", "Throttling", "ThrottlingException")


class NoSuchInstanceError(UnansweredError):
    """EC2 does not know this id: long gone, or made a second ago."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns boto's exceptions into ours.

    Raises:
        NotMadeError: no capacity or quota.
        DeniedError: a wrong key or a missing right.
        NoSuchInstanceError: no instance has this id.
        UnansweredError: anything else: what AWS did is not known.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, said = code_of(error), str(error.response.get("Error", {}).get("Message", ""))[:300]
        text = f"AWS, {what}: {code} {said}".strip()
        if code in GONE:
            raise NoSuchInstanceError(text) from error
        if code in NO_CAPACITY:
            raise NotMadeError(f"{text}. No capacity here: another region (--region), or a smaller profile") from error
        if code in QUOTA:
            raise NotMadeError(f"{text}. Ask for more vCPUs: `doctor` prints the command") from error
        if code in DENIED:
            raise DeniedError(f"{text}. The rights that are needed are in aws/iam-policy.json") from error
        if code in BROKEN_KEY:
            raise DeniedError(f"{text}. Log in again: aws configure, or aws sso login") from error
        if code.startswith(("Invalid", "Missing", "Unknown")):
            raise DeniedError(text) from error
        raise UnansweredError(text) from error
    except (BotoCoreError, LookupError, TypeError, ValueError, AttributeError) as error:  # or not what AWS describes
        raise UnansweredError(f"AWS, {what}: {type(error).__name__}") from error


def code_of(error: Any) -> str:  # noqa: ANN401  # botocore has no types
    """The error code of a ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))
