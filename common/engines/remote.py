"""An engine that somebody else runs: it is asked who it is, it is never started, and never ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from common.core.plan import ParallelPlan
from common.engines.engine import AllReduceTime, EngineFacts, TracedAllReduces
from common.engines.failures import EngineError, Failure
from common.engines.guarded import Gone
from common.engines.settings import EngineSettings
from common.load import control
from common.load.address import Address
from common.load.client import Endpoint
from common.load.discretion import without_host
from common.machine.devices import Device

NAME = "the server"  # in records, which are published: not its address
MOST_NAMED = 8
GONE, HUNG = "server_gone", "server_hangs"
SECOND_LOOK_S = 0.5
RESTART = "Start it again and run the same command: it goes on with what is missing"


@dataclass(frozen=True)
class RemoteServer:
    """Somebody's server and what is wanted of it; without a `model`, the only one that it serves.

    It is given up when it sends nothing for `idle_timeout_s` while requests wait.
    """

    address: Address
    model: str | None
    chat: bool = False
    api_key: str | None = field(default=None, repr=False)
    idle_timeout_s: float | None = None

    def serves(self) -> str:
        """The served name of the model that is wanted: the one question before anything is sent.

        Raises:
            EngineError: no answer, a refusal, not an OpenAI server, or not this model.
        """
        question = control.served_models(self.address.origin, self.address.prefix, self.api_key)
        try:
            names = asyncio.run(question)
        except control.ControlError as error:
            raise EngineError(self._no_answer(error)) from error
        if self.model is None and len(names) == 1:
            return names[0]
        if self.model in names:
            return str(self.model)
        shown = " ".join(", ".join(names[:MOST_NAMED]).split()) + (", ..." if len(names) > MOST_NAMED else "") or "none"
        asked = f"it does not serve {self.model}" if self.model else "which model is not said"
        raise EngineError(Failure("wrong_model", f"{asked}; it serves {shown}", "Name one of them with --model"))

    def _no_answer(self, error: control.ControlError) -> Failure:
        """What went wrong, without a word of the server's: some repeat the key."""
        if error.status in (401, 403):
            said = f"it answered {error.status}: " + ("the key is not accepted" if self.api_key else "it wants a key")
            return Failure("unauthorized", said, "Put a valid key into the environment variable OPENAI_API_KEY")
        if error.kind == "status" and error.status is not None and 300 <= error.status < 400:
            message = f"it answered {error.status}: it redirects to another address"
            return Failure("not_openai", message, "Give --base-url the address that it redirects to")
        if error.kind in ("status", "content"):
            what = "no list of models" if error.status is None else f"{error.status}"
            message = f"not an OpenAI-compatible server: {self.address.prefix}/models answers with {what}"
            return Failure("not_openai", message, "Give --base-url the address up to /v1, as in http://localhost:8000")
        if error.kind == "certificate":
            remedy = "Use the name that it was made for; name your own authority's file in SSL_CERT_FILE"
            return Failure("certificate", f"its certificate cannot be trusted: {_reason(error)}", remedy)
        why = f"no answer in {control.QUESTION_TIMEOUT_S:g} s" if error.kind == "timeout" else _reason(error)
        remedy = "Start it, or mend --base-url (host, port, http or https)"
        return Failure("unreachable", f"it cannot be reached: {why}", remedy)


class RemoteEngine:
    """Somebody's server as an engine; implements `Engine`.

    How it lays its model over devices is not known: its `plan` stands for one server and says nothing.
    """

    def __init__(self, server: RemoteServer) -> None:
        self.plan = ParallelPlan()
        self._server = server
        self._has_metrics = True
        version = None
        with contextlib.suppress(control.ControlError):  # only vLLM has it
            version = asyncio.run(control.version(server.address.origin))
        self.facts = EngineFacts(version, None, {}, None, [], [], {})

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Its one address."""
        server = self._server
        endpoint = server.address.endpoint(server.model or "", server.chat, server.api_key, NAME)
        return [replace(endpoint, idle_timeout_s=server.idle_timeout_s)]

    def pids(self) -> list[int]:
        """None that are ours."""
        return []

    def metrics(self) -> dict[str, float]:
        """What its `/metrics` says; nothing, from the first time on, where it has none: it is not asked again."""
        if self._has_metrics:
            with contextlib.suppress(control.ControlError):
                return asyncio.run(control.scrape_metrics(self._server.address.origin))
            self._has_metrics = False
        return {}

    def front_end_cpu_s(self) -> list[float]:
        """Unknown."""
        return []

    def slow_all_reduces(self, delay_us: float, tokens: Sequence[int]) -> list[AllReduceTime]:
        """Never: they are not ours to slow."""
        raise NotImplementedError("no case of somebody else's server slows it")

    def trace_all_reduces(self) -> TracedAllReduces | None:
        """Nothing: they are not ours to profile."""
        return None

    def alive(self) -> bool:
        """Its processes are not ours to see; whether it still answers is asked once a request has failed."""
        return True

    def death(self) -> Failure | None:
        """Why it no longer serves, or None while it does; asked twice, since one that is ending may still answer."""
        try:
            self._server.serves()
            time.sleep(SECOND_LOOK_S)
            self._server.serves()
        except EngineError as error:
            failure = error.failure
            why = without_host(failure.message, self._server.address.host, NAME)
            return Failure(GONE, f"the server no longer serves: {why}", RESTART)
        return None

    def stop(self) -> Gone:
        """It goes on serving."""
        return Gone(0.0, 0, (), (), (), True)


class RemoteLauncher:
    """Finds a server that runs already; implements `StartsEngines`."""

    def __init__(self, server: RemoteServer) -> None:
        self._server = server

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> RemoteEngine:
        """The server as an engine, whatever plan, devices and settings are asked for: it has its own.

        Raises:
            EngineError: it does not serve the model.
        """
        self._server.serves()
        return RemoteEngine(self._server)


def _reason(error: control.ControlError) -> str:
    """The system's own words, where there are any: `Connection refused`."""
    cause = error.__cause__
    system = getattr(cause, "os_error", None) or getattr(cause, "certificate_error", None) or cause
    if isinstance(system, ssl.SSLCertVerificationError):
        return system.verify_message
    if isinstance(system, ssl.SSLError | socket.gaierror) or not isinstance(system, OSError) or not system.errno:
        return " ".join(str(getattr(system, "strerror", None) or type(system).__name__).split())
    return os.strerror(system.errno)  # asyncio's own words hold the address
