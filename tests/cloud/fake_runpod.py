"""A strict stand-in for Runpod's REST API v2: bodies are validated, states are walked, faults are planted.

`exchange` takes the place of an HTTP exchange; `serving.py` puts the same thing behind a socket, for real processes.
"""

from __future__ import annotations

import email.utils
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from common.cloud.clock import Clock
from common.cloud.http import Call, NoReplyError, Reply
from tests.cloud.runpod_bodies import PodBody, ok, problem

KEY = "rpa_PLANTED0KEY1THAT2MUST3NOT4LEAK5"
OTHER_KEY = "rpa_of0somebody1elses2account3"  # a good key of an account with nothing in it
PRICES = {"NVIDIA A100-SXM4-80GB": (1.79, 1.39), "NVIDIA L4": (0.49, 0.44), "NVIDIA RTX A5000": (0.27, 0.16)}
FAULTS = (
    *("created_but_500", "reply_lost", "request_lost", "late", "made_twice", "refused_but_made", "unknown_at_first"),
    *("no_capacity", "no_balance", "create_429", "create_422", "create_nonsense"),
    *("terminate_ignored", "terminate_slow", "terminate_500", "terminate_reply_lost"),
    *("list_500", "list_500_at_first", "list_truncated", "list_429", "list_without_ours", "get_500", "get_nonsense"),
    *("volumes_500", "volume_left", "cluster_left"),
    *("dear", "no_price", "stuck", "gone_in_mid_run", "stopped_in_mid_run", "terminated_but_listed", "never_answers"),
)


@dataclass
class Pod:
    id: str
    body: dict[str, Any]
    made_at: float
    cost: float | None
    visible_at: float
    gone: bool = False
    terminations: int = 0
    status: str | None = None
    host: dict[str, Any] = field(default_factory=lambda: {"host": "127.0.0.1", "port": 2222})


class FakeRunpod:
    """The account. `faults` are names of FAULTS; `started` and `ended` let pods be real processes."""

    def __init__(self, clock: Clock, faults: frozenset[str] = frozenset(), boot_s: float = 40.0) -> None:
        assert faults <= set(FAULTS), faults
        self.clock, self.faults, self.boot_s = clock, faults, boot_s
        self.pods: dict[str, Pod] = {}
        self.volumes: list[dict[str, Any]] = [{"id": "vol-other", "name": "somebody's models", "size": 100}]
        self.clusters: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.denied: set[str] = set()
        self.creates_from = 10**9
        """The number of the call that was the first create: what is listed before it has no faults."""
        self.touched: set[str] = set()
        self.most_alive = 0
        self.started: Callable[[Pod], None] = lambda _: None
        self.ended: Callable[[Pod], None] = lambda _: None
        self._lock = threading.RLock()
        other = {"name": "somebody-elses", "gpu": {"id": "NVIDIA L4", "count": 1}, "image": "x:1"}
        self.pods["pod-other"] = Pod("pod-other", other, clock.now(), 0.49, clock.now(), status="RUNNING")

    def ours(self) -> list[str]:
        """The truth between two requests: everything with the lab's mark that exists."""
        with self._lock:
            found = [pod.id for pod in self.pods.values() if not pod.gone and pod.body["name"].startswith("llmlab-")]
            return found + [one["id"] for one in (*self.volumes, *self.clusters) if one["name"].startswith("llmlab-")]

    def exchange(self, call: Call) -> Reply:
        """Answer a request, or raise where no answer comes."""
        with self._lock:
            address = urllib.parse.urlsplit(call.url)
            self.calls.append((call.method, address.path))
            query = dict(urllib.parse.parse_qsl(address.query))
            if call.method == "POST":
                self.creates_from = min(self.creates_from, len(self.calls))
            reply = self._answer(call, urllib.parse.unquote(address.path), query)
            self.most_alive = max(self.most_alive, sum(not pod.gone for pod in self.pods.values()) - 1)
            date = {"date": email.utils.formatdate(self.clock.now(), usegmt=True)}
            return Reply(reply.status, date | dict(reply.headers), reply.body)

    def _answer(self, call: Call, path: str, query: dict[str, str]) -> Reply:
        token = call.headers.get("Authorization", "").removeprefix("Bearer ")
        pod_id = path.removeprefix("/v2/pods/")
        if token == OTHER_KEY:
            return self._nothing(call, path)
        if token != KEY and not (call.method == "DELETE" and token == f"key-of-{pod_id}"):
            return problem(401, "unauthorized")
        if path in self.denied:
            return problem(403, "forbidden")
        routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", r"/v2/account", lambda: ok({"id": "user_1", "email": "me@example.com"})),
            ("GET", r"/v2/catalog/gpus/(.+)", lambda gpu: self._catalog(gpu, query)),
            ("POST", r"/v2/pods", lambda: self._create(call.body)),
            ("GET", r"/v2/pods", lambda: self._list(query)),
            ("GET", r"/v2/pods/([\w-]+)", self._get),
            ("DELETE", r"/v2/pods/([\w-]+)", self._delete),
            ("GET", r"/v2/network-volumes", lambda: self._collection("networkVolumes", self.volumes)),
            ("GET", r"/v2/clusters", lambda: self._collection("clusters", self.clusters)),
            ("DELETE", r"/v2/network-volumes/([\w-]+)", lambda one: self._remove(self.volumes, one)),
            ("DELETE", r"/v2/clusters/([\w-]+)", lambda one: self._remove(self.clusters, one)),
            ("GET", r"/v2/billing/pods", lambda: self._billing(query)),
        ]
        for method, pattern, handle in routes:
            if method == call.method and (match := re.fullmatch(pattern, path)):
                return handle(*match.groups())
        return problem(404, f"no route {call.method} {path}")

    def _nothing(self, call: Call, path: str) -> Reply:
        """Another account, which knows of none of it."""
        empty = {"pods": "pods", "network-volumes": "networkVolumes", "clusters": "clusters"}
        kind = path.removeprefix("/v2/")
        if kind == "account":
            return ok({"id": "user_2", "email": None})
        return ok({empty[kind]: []}) if call.method == "GET" and kind in empty else problem(404, "not found")

    def _catalog(self, gpu: str, query: dict[str, str]) -> Reply:
        if "include" in query and "product" not in query:
            return problem(400, "include=AVAILABILITY needs product")
        if gpu not in PRICES:
            return problem(404, "no such GPU")
        secure, community = PRICES[gpu]
        stock = "NONE" if "no_capacity" in self.faults and query.get("count") == "8" else "LOW"
        price = {"secure": secure, "community": community}
        return ok({"id": gpu, "price": price, "availability": stock, "maxCount": {"secure": 8, "community": 8}})

    def _create(self, sent: object) -> Reply:
        try:
            body = PodBody.model_validate(sent).model_dump(exclude_unset=True)
        except ValidationError as error:
            return problem(422, str(error.errors()[0]["loc"]))
        refusals = {
            "no_capacity": (400, "There are no instances available"),
            "no_balance": (402, "balance too low"),
            "create_429": (429, "slow down"),
            "create_422": (422, "args"),
        }
        for fault, (status, detail) in refusals.items():
            if fault in self.faults:
                return problem(status, detail)
        if "request_lost" in self.faults:
            raise NoReplyError("ConnectionResetError")
        pod = self._make(body)
        if "made_twice" in self.faults:
            self._make(body)
        if "created_but_500" in self.faults:
            return problem(500, "internal error")
        if "refused_but_made" in self.faults:
            return problem(400, "There are no instances available")
        if "create_nonsense" in self.faults:
            return Reply(201, {}, b'{"id": ')
        if self.faults & {"reply_lost", "late"}:
            raise NoReplyError("TimeoutError")
        return ok(self._view(pod), 201)

    def _make(self, body: dict[str, Any]) -> Pod:
        now = self.clock.now()
        secure, community = PRICES[body["gpu"]["id"]]
        price = (secure if body["cloud"] == "SECURE" else community) * body["gpu"]["count"]
        cost = None if "no_price" in self.faults else price * (2.18 if "dear" in self.faults else 1.0)
        known_at = now + (20 if self.faults & {"late", "unknown_at_first"} else 0)
        pod = Pod(f"pod-{len(self.pods)}", body, now, cost, known_at)
        self.pods[pod.id] = pod
        left = {"id": f"left-{pod.id}", "name": body["name"], "size": 10}
        if "volume_left" in self.faults:
            self.volumes.append(left)
        if "cluster_left" in self.faults:
            self.clusters.append(left)
        self.started(pod)
        return pod

    def _walk(self, pod: Pod) -> str:
        """The state that a pod has now."""
        age_s = self.clock.now() - pod.made_at
        if pod.status is not None:
            return pod.status
        if "gone_in_mid_run" in self.faults and age_s > self.boot_s + 30:
            pod.gone = True
            self.ended(pod)
        if "stopped_in_mid_run" in self.faults and age_s > self.boot_s + 30:
            return "EXITED"
        if "stuck" in self.faults or age_s < self.boot_s:
            return "PROVISIONING"
        return "RUNNING"

    def _view(self, pod: Pod) -> dict[str, Any]:
        status = self._walk(pod)
        running = status == "RUNNING"
        return {
            **{"id": pod.id, "name": pod.body["name"], "status": status, "image": pod.body["image"]},
            "cost": 0.0 if status in ("EXITED", "TERMINATED") else pod.cost,
            "ssh": {"proxy": None, "direct": pod.host if running else None},
            "runtime": None,
            "env": pod.body.get("env", {}),
        }

    def _visible(self) -> list[Pod]:
        now = self.clock.now()
        for pod in list(self.pods.values()):
            self._walk(pod)
        return [pod for pod in self.pods.values() if not pod.gone and pod.visible_at <= now]

    def _list(self, query: dict[str, str]) -> Reply:
        if query.get("includeClusterPods") != "true":
            return problem(400, "the lab must see cluster pods too")
        count = self.calls[self.creates_from :].count(("GET", "/v2/pods"))
        listed = [self._view(pod) for pod in self._visible()]
        if len(self.calls) < self.creates_from:
            return ok({"pods": listed, "pagination": None})
        if "list_500" in self.faults or ("list_500_at_first" in self.faults and count < 8):
            return problem(500, "internal error")
        if "list_429" in self.faults and count % 2:
            return Reply(429, {"retry-after": "3"}, b"{}")
        if "list_truncated" in self.faults:
            return Reply(200, {}, b'{"pods": [{"id": "pod-ot')
        pods = listed
        if "terminated_but_listed" in self.faults:
            gone = [self._view(pod) | {"status": "TERMINATED"} for pod in self.pods.values() if pod.gone]
            pods += gone
        if "list_without_ours" in self.faults:
            pods = [pod for pod in pods if not pod["name"].startswith("llmlab-")]
        start = int(query.get("cursor", "0"))
        more = start + 2 < len(pods)
        page = {"hasNextPage": more, "nextCursor": str(start + 2) if more else None}
        return ok({"pods": pods[start : start + 2], "pagination": page})

    def _get(self, pod_id: str) -> Reply:
        if "get_500" in self.faults:
            return problem(500, "internal error")
        if "get_nonsense" in self.faults:
            return ok({"status": "fine"})
        pod = self.pods.get(pod_id)
        if pod is not None:
            self._walk(pod)
        if (
            pod is None
            or (pod.gone and "terminated_but_listed" not in self.faults)
            or self.clock.now() < pod.visible_at
        ):
            return problem(404, "not found")
        return ok(self._view(pod) | ({"status": "TERMINATED"} if pod.gone else {}))

    def _delete(self, pod_id: str) -> Reply:
        pod = self.pods.get(pod_id)
        if pod is None or pod.gone:
            return problem(404, "not found")
        self.touched.add(pod_id)
        pod.terminations += 1
        if "terminate_ignored" in self.faults or ("terminate_slow" in self.faults and pod.terminations < 4):
            return Reply(204, {}, b"")
        if "terminate_500" in self.faults and pod.terminations < 6:
            return problem(500, "internal error")
        pod.gone = True
        self.ended(pod)
        if "terminate_reply_lost" in self.faults:
            raise NoReplyError("TimeoutError")
        return Reply(204, {}, b"")

    def _collection(self, name: str, entries: list[dict[str, Any]]) -> Reply:
        fails = "volumes_500" in self.faults and len(self.calls) >= self.creates_from
        return problem(500, "internal error") if fails else ok({name: entries})

    def _remove(self, entries: list[dict[str, Any]], one: str) -> Reply:
        self.touched.add(one)
        entries[:] = [entry for entry in entries if entry["id"] != one]
        return Reply(204, {}, b"")

    def _billing(self, query: dict[str, str]) -> Reply:
        pod = self.pods.get(query.get("podId", ""))
        return ok({"records": [{"podId": pod.id, "totalAmount": 0.51}] if pod else [], "metadata": {}})
