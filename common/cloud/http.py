"""One HTTP exchange with a provider, and the repetition of those that may be repeated."""

from __future__ import annotations

import email.utils
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.cloud.clock import Clock
from common.cloud.errors import UnansweredError

TIMEOUT_S = 30.0
TRIES = 4
MOST_WAIT_S = 60.0


@dataclass(frozen=True)
class Call:
    """A request; `body` is sent as JSON."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class Reply:
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """The body as JSON.

        Raises:
            UnansweredError: it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise UnansweredError(f"the provider answered {self.status} with something that is not JSON") from error

    @property
    def said(self) -> str:
        """The provider's own words on an error (RFC 9457), shortened."""
        try:
            document = json.loads(self.body)
            return str(document.get("detail") or document.get("title") or "")[:300]
        except (ValueError, AttributeError):
            return ""

    def skew_s(self, now: float) -> float:
        """The server's clock minus ours; 0 where it does not say."""
        text = self.headers.get("date")
        parsed = email.utils.parsedate_to_datetime(text) if text else None
        return 0.0 if parsed is None else parsed.timestamp() - now


Send = Callable[[Call], Reply]


class NoReplyError(Exception):
    """The connection failed; whether the request arrived is not known."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Refuse."""


def send(call: Call) -> Reply:
    """Send once.

    Raises:
        NoReplyError: no answer came.
    """
    data = None if call.body is None else json.dumps(call.body).encode()
    headers = {"User-Agent": "distributed-inference-lab", **call.headers}
    if data is not None:
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(call.url, data, headers, method=call.method)
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        try:
            answer = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            answer = error  # an answer all the same, whose body may break off like any other's
        with answer:
            return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise NoReplyError(type(error).__name__) from None  # its text may repeat the request


def repeat(call: Call, exchange: Send, clock: Clock) -> Reply:
    """Send a request that does no harm twice until it is answered, a few times.

    Raises:
        UnansweredError: silence, 429 or 5xx each time.
    """
    reason = ""
    for attempt in range(TRIES):
        wait_s = 2.0**attempt
        try:
            reply = exchange(call)
        except NoReplyError as error:
            reason = f"no answer ({error})"
        else:
            if reply.status != 429 and reply.status < 500:
                return reply
            reason = f"{reply.status} {reply.said}".strip()
            asked = reply.headers.get("retry-after", "")
            wait_s = min(float(asked), MOST_WAIT_S) if asked.isdecimal() else wait_s
        if attempt < TRIES - 1:
            clock.sleep(wait_s)
    raise UnansweredError(f"{call.method} {call.url.partition('?')[0]}: {reason}, {TRIES} times")
