"""Runpod by its REST API, version 2 (https://docs.runpod.io/api-reference-v2): the calls of the seam.

The API has no time limit of its own, so a pod ends itself: see `data/deadman.sh`. The account's key is sent in one
header and nowhere else; a pod has a key of its own, from Runpod.
"""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
from typing import Any

from common.cloud.clock import Clock
from common.cloud.errors import DeniedError, NotMadeError, ProviderError, UnansweredError
from common.cloud.http import Call, NoReplyError, Reply, Send, repeat, send
from common.cloud.marks import TAG_DEADLINE, TAG_ID, read_name
from common.cloud.prices import disk_usd_per_hour
from common.cloud.profiles import Profile
from common.cloud.provider import Finding, Leftover, Machine, Order, Quote, State

URL = "https://api.runpod.io"
CONSOLE = "https://console.runpod.io/pods"
BILLING = "https://console.runpod.io/user/billing"
CUDA = "13.0"
STATES: dict[str, State] = {
    **{"PROVISIONING": "starting", "STARTING": "starting", "RUNNING": "running"},
    **{"EXITED": "stopped", "ERROR": "stopped", "TERMINATED": "gone"},
}
PODS = "/v2/pods?includeClusterPods=true"
COLLECTIONS = {"network volume": ("/v2/network-volumes", "networkVolumes"), "cluster": ("/v2/clusters", "clusters")}
LISTS = ("/v2/account", PODS, *(path for path, _ in COLLECTIONS.values()))
RIGHTS = {"/v2/network-volumes": "Network volumes read", "/v2/clusters": "Clusters read", "/v2/billing": "Billing read"}


class Runpod:
    """One account."""

    kind = "runpod"

    def __init__(self, key: str, clock: Clock | None = None, url: str = URL, exchange: Send = send) -> None:
        self._key, self._clock, self._url, self._exchange = key, clock or Clock(), url, exchange
        self._account: str | None = None

    def account(self) -> str:
        """The account's id; where it is not told, a checksum of the key stands for it."""
        if self._account is None:
            reply = self._read("/v2/account", fine=(403, 404))
            known = self._object(reply, "/v2/account").get("id") if reply.status == 200 else None
            checksum = hashlib.sha256(self._key.encode()).hexdigest()[:12]
            self._account = known if isinstance(known, str) and known else f"key-{checksum}"
        return self._account

    def quote(self, profile: Profile) -> Quote:
        """Price of this tier, never of the cheapest one, and whether so many GPUs are there."""
        path = _catalog_path(profile)
        reply = self._read(path)
        found = self._object(reply, path)
        price = _price((found.get("price") or {}).get(profile.tier.lower()))
        most = (found.get("maxCount") or {}).get(profile.tier.lower())
        if price is None:
            raise NotMadeError(f"Runpod names no {profile.tier} price for {profile.gpu}: take another profile")
        if isinstance(most, int) and profile.gpus > most:
            raise NotMadeError(f"Runpod gives at most {most} x {profile.gpu} in one pod: take a smaller profile")
        usd = price * profile.gpus + disk_usd_per_hour("runpod", profile.disk_gb)
        stock = str(found.get("availability"))
        skew_s = reply.skew_s(self._clock.now())
        return Quote(usd, profile.tier, stock in ("LOW", "MEDIUM", "HIGH"), f"stock {stock}", skew_s)

    def create(self, order: Order) -> Machine:
        """POST once. 4xx: nothing was made, as Runpod says; anything else than 201: not known."""
        try:
            reply = self._exchange(self._call("POST", "/v2/pods", pod_body(order)))
        except NoReplyError as error:
            raise UnansweredError(f"no answer to the create ({error})") from None
        said = f"Runpod: {reply.status} {reply.said}".strip()
        if reply.status in (401, 402, 403, 422):
            raise DeniedError(f"{said}. {REMEDIES[reply.status]}")
        if 400 <= reply.status < 500:
            raise NotMadeError(f"{said}. No capacity, or too many requests: try later or a smaller profile")
        if reply.status != 201:
            raise UnansweredError(said)
        return _machine(self._object(reply, "/v2/pods"))

    def get(self, machine_id: str) -> Machine | None:
        """One pod."""
        path = f"/v2/pods/{urllib.parse.quote(machine_id, safe='')}"
        reply = self._read(path, fine=(404,))
        if reply.status == 404:
            return None
        return _machine(self._object(reply, path))

    def machines(self) -> list[Machine]:
        """All pods, those of clusters too."""
        return [_machine(pod) for pod in self._listed(PODS, "pods")]

    def terminate(self, machine_id: str) -> None:
        """DELETE; a pod that is gone already is no error."""
        reply = repeat(self._call("DELETE", f"/v2/pods/{machine_id}"), self._exchange, self._clock)
        if reply.status not in (200, 202, 204, 404):
            raise ProviderError(f"Runpod does not end pod {machine_id}: {reply.status} {reply.said}")

    def leftovers(self) -> list[Leftover]:
        """Network volumes, which go on billing when their pod is gone, and clusters."""
        found = []
        for kind, (path, key) in COLLECTIONS.items():
            for entry in self._listed(path, key):
                name = str(entry.get("name"))
                marks = read_name(name)
                found.append(Leftover(kind, str(entry.get("id")), name, marks.lab_id if marks else None))
        return found

    def clear(self, leftover: Leftover) -> None:
        """The lab makes neither; one that bears its mark is removed all the same."""
        path = f"{COLLECTIONS[leftover.kind][0]}/{urllib.parse.quote(leftover.id, safe='')}"
        reply = repeat(self._call("DELETE", path), self._exchange, self._clock)
        if reply.status not in (200, 202, 204, 404):
            raise ProviderError(f"Runpod does not remove {leftover.kind} {leftover.id}: {reply.status}")

    def bill(self, machine_id: str) -> float | None:
        """Dollars billed, hour by hour; it lags."""
        asked = urllib.parse.urlencode({"podId": machine_id, "bucketSize": "hour"})
        rows = self._listed(f"/v2/billing/pods?{asked}", "records")
        return sum(_price(row.get("totalAmount")) or 0.0 for row in rows) if rows else None

    def by_hand(self, machine_id: str, region: str | None = None) -> str:
        """With curl, or by the console's bin symbol."""
        return f"{self._delete}/v2/pods/{machine_id}   or by hand: {CONSOLE}"

    def clear_by_hand(self, leftover: Leftover) -> str:
        """With curl, or on the console's page of its kind."""
        page = "https://console.runpod.io, Storage or Clusters"
        return f"{self._delete}{COLLECTIONS[leftover.kind][0]}/{leftover.id}   or by hand: {page}"

    @property
    def scope(self) -> str:
        """An account is one place."""
        return ""

    def state_of_account(self) -> list[Finding]:
        """The API tells neither balance nor spend limit to a key that may only rent."""
        return [(None, f"balance and auto-pay: not told by the API: look at {BILLING} (prepaid, auto-pay off)")]

    def requests(self, order: Order) -> list[str]:
        """The quote, the account, what it lists, and the create."""
        asked = [f"GET {self._url}{path}" for path in (_catalog_path(order.profile), *LISTS)]
        return [*asked, f"POST {self._url}/v2/pods {json.dumps(pod_body(order), indent=1)}"]

    def changed_fields(self) -> list[str]:
        """Fields that the create sends and that the API's own description does not know."""
        document = self._object(
            repeat(Call("GET", f"{self._url}/v2/openapi.json"), self._exchange, self._clock), "openapi"
        )
        text = json.dumps(document)
        return [f"the API no longer names '{field}'" for field in FIELDS if f'"{field}"' not in text]

    @property
    def _delete(self) -> str:
        return f'curl -X DELETE -H "Authorization: Bearer $RUNPOD_API_KEY" {self._url}'

    def _call(self, method: str, path: str, body: object = None) -> Call:
        return Call(method, f"{self._url}{path}", {"Authorization": f"Bearer {self._key}"}, body)

    def _read(self, path: str, fine: tuple[int, ...] = ()) -> Reply:
        reply = repeat(self._call("GET", path), self._exchange, self._clock)
        if reply.status == 200 or reply.status in fine:
            return reply
        where, right = path.partition("?")[0], next((RIGHTS[one] for one in RIGHTS if path.startswith(one)), "")
        remedy = f"The key may not do this: give it {right}" if reply.status == 403 and right else ""
        remedy = remedy or REMEDIES.get(reply.status, "")
        kind = DeniedError if reply.status in REMEDIES else UnansweredError
        raise kind(f"Runpod: {reply.status} {reply.said} at GET {where}. {remedy}".strip())

    def _object(self, reply: Reply, path: str) -> dict[str, Any]:
        document = reply.json()
        if not isinstance(document, dict):
            raise UnansweredError(f"Runpod's answer to {path.partition('?')[0]} is not what its API describes")
        return document

    def _listed(self, path: str, key: str) -> list[dict[str, Any]]:
        """A whole collection: a page that is not the last one would hide machines."""
        found: list[dict[str, Any]] = []
        cursors: list[str] = []
        while True:
            separator = "&" if "?" in path else "?"
            page = f"{path}{separator}cursor={urllib.parse.quote(cursors[-1])}" if cursors else path
            document = self._object(self._read(page), path)
            entries, pagination = document.get(key), document.get("pagination") or {}
            if not isinstance(entries, list) or not all(isinstance(part, dict) for part in (*entries, pagination)):
                raise UnansweredError(f"Runpod's list {path.partition('?')[0]} is not what its API describes")
            found += entries
            cursor = pagination.get("nextCursor")
            if not cursor:
                return found
            if str(cursor) in cursors:
                raise UnansweredError(f"Runpod's list {path.partition('?')[0]} has no end")
            cursors.append(str(cursor))


FIELDS = (
    "name",
    "image",
    "cloud",
    "gpu",
    "minCudaVersion",
    "disk",
    "ports",
    "startSsh",
    "env",
    "args",
    "cost",
    "direct",
)
REMEDIES = {
    401: "The key is wrong: see `doctor`",
    402: f"The balance is too low: a pod needs an hour's worth; add credit at {BILLING}",
    403: "The key may not do this: give it Pods read and write",
    422: "The API has changed: see `doctor --check-api`",
}


def pod_body(order: Order) -> dict[str, Any]:
    """The body of the create. The start script travels as base64 inside `args`: no quoting can break it."""
    profile, marks = order.profile, order.marks
    script = base64.b64encode(order.start.encode()).decode()
    return {
        "name": marks.name,
        "image": profile.image,
        "cloud": profile.tier,
        "gpu": {"id": profile.gpu, "count": profile.gpus, "minCudaVersion": CUDA},
        "disk": profile.disk_gb,
        "ports": ["22/tcp"],
        "startSsh": True,
        "env": {
            "PUBLIC_KEY": order.public_key,
            TAG_ID.upper().replace("-", "_"): marks.lab_id,
            TAG_DEADLINE.upper().replace("-", "_"): str(marks.deadline),
        },
        "args": f"bash -c 'echo {script} | base64 -d | bash'",
    }


def _catalog_path(profile: Profile) -> str:
    """The question for price and stock of so many cards."""
    asked = {"include": "AVAILABILITY", "product": "POD", "count": profile.gpus, "cloud": profile.tier}
    card = urllib.parse.quote(profile.gpu)
    return f"/v2/catalog/gpus/{card}?{urllib.parse.urlencode(asked | {'minCudaVersion': CUDA})}"


def _machine(pod: dict[str, Any]) -> Machine:
    """A pod; a state that is not known counts as one that bills."""
    if not isinstance(pod.get("id"), str) or not isinstance(pod.get("name"), str):
        raise UnansweredError("Runpod described a pod without id or name")
    state = STATES.get(str(pod.get("status")), "stopped")
    marks = read_name(pod["name"])
    price = _price(pod.get("cost"))
    try:
        direct = (pod.get("ssh") or {}).get("direct") or {}
        where = direct.get("host"), int(direct.get("port") or 22)
    except (AttributeError, TypeError, ValueError):
        where = None, 22  # not to be reached, and still to be ended
    return Machine(pod["id"], pod["name"], state, price or None, *where, marks.lab_id if marks else None)


def _price(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None
