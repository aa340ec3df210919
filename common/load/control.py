"""Questions to a server beside the load: is it up, what does it serve, what do its own counters say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from common.load.connection import tls_context

HEALTH_TIMEOUT_S = 5.0
QUESTION_TIMEOUT_S = 10.0
CACHE_CONFIG = "vllm:cache_config_info"


Kind = Literal["unreachable", "timeout", "certificate", "status", "content"]


class ControlError(ConnectionError):
    """A server did not answer a control call, or not with what was asked for; one line says which and why.

    `status` is the HTTP status of an answer that was a refusal.
    """

    def __init__(self, message: str, kind: Kind = "content", status: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


async def is_healthy(base_url: str) -> bool:
    """Whether `/health` answers with 200; no answer is no."""
    try:
        await _ask("GET", f"{base_url}/health", HEALTH_TIMEOUT_S)
    except ControlError:
        return False
    return True


async def served_models(base_url: str, prefix: str = "/v1", api_key: str | None = None) -> list[str]:
    """The model names that the server accepts; `prefix` is where its API begins.

    Raises:
        ControlError: no answer, or not a list of models.
    """
    url = f"{base_url}{prefix}/models"
    answer = await ask_json("GET", url, QUESTION_TIMEOUT_S, api_key=api_key)
    try:
        return [str(model["id"]) for model in answer["data"]]
    except (KeyError, TypeError):
        raise ControlError(f"{url} did not answer with a list of models") from None


async def version(base_url: str) -> str:
    """The version of vLLM that the server runs.

    Raises:
        ControlError: no answer, or none with a version.
    """
    answer = await ask_json("GET", f"{base_url}/version", QUESTION_TIMEOUT_S)
    try:
        return str(answer["version"])
    except (KeyError, TypeError):
        raise ControlError(f"{base_url}/version did not answer with a version") from None


async def scrape_metrics(base_url: str) -> dict[str, float]:
    """The server's `/metrics`, by sample name, summed over label sets (engines, finish reasons, ...).

    Counters, gauges, and the `_sum` and `_count` of histograms; buckets and creation times are left out. A sum of
    gauges that are shares, such as KV cache usage, means something for a single engine only.

    Raises:
        ControlError: no answer, or not in Prometheus' text format.
    """
    totals: dict[str, float] = {}
    for name, _, value in await _samples(base_url):
        if not name.endswith(("_bucket", "_created")):
            totals[name] = totals.get(name, 0.0) + value
    return totals


async def cache_config(base_url: str) -> dict[str, str]:
    """The labels of vLLM's `vllm:cache_config_info`, of the first engine where there are several; else empty.

    Raises:
        ControlError: no answer, or not in Prometheus' text format.
    """
    return next((labels for name, labels, _ in await _samples(base_url) if name == CACHE_CONFIG), {})


async def collective_rpc(base_url: str, method: str, args: Sequence[str], timeout_s: float) -> list[Any]:
    """Run a worker method in every rank through vLLM's `/collective_rpc` (`VLLM_SERVER_DEV_MODE=1`).

    Args:
        base_url: the server.
        method: a method of the worker or of its extension.
        args: strings; vLLM hands over nothing else.
        timeout_s: for the whole call; vLLM gets it too, so that its ranks do not wait on.

    Returns:
        One result per rank: `None`, lists and dicts as they are, anything else as a string.

    Raises:
        ControlError: no answer in time, or an error.
    """
    url = f"{base_url}/collective_rpc"
    body = msgspec.json.encode({"method": method, "args": list(args), "timeout": timeout_s})
    answer = await ask_json("POST", url, timeout_s, body)
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise ControlError(f"{url} did not answer with results for {method}")
    return results


async def ask_json(
    method: str, url: str, timeout_s: float, body: bytes | None = None, api_key: str | None = None
) -> Any:  # noqa: ANN401
    """Whatever JSON a server answers with.

    Raises:
        ControlError: no answer in time, an error, or no JSON.
    """
    content = await _ask(method, url, timeout_s, body, api_key)
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ControlError(f"{url} did not answer with JSON") from None


async def _samples(base_url: str) -> list[tuple[str, dict[str, str], float]]:
    text = (await _ask("GET", f"{base_url}/metrics", QUESTION_TIMEOUT_S)).decode(errors="replace")
    try:
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except ValueError as failure:
        raise ControlError(f"{base_url}/metrics is not in Prometheus' text format: {failure}") from failure


async def _ask(method: str, url: str, timeout_s: float, body: bytes | None = None, api_key: str | None = None) -> bytes:
    """No redirect is followed: load would not follow it either, and a key belongs to one server."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    headers |= {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    tls = tls_context() if url.startswith("https:") else True
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(method, url, data=body, headers=headers, ssl=tls, allow_redirects=False) as response,
        ):
            content = await response.read()
    except TimeoutError:
        raise ControlError(f"{url} did not answer within {timeout_s:g} s", "timeout") from None
    except aiohttp.ClientConnectorCertificateError as failure:
        raise ControlError(f"{url}: {failure.certificate_error}", "certificate") from failure
    except (aiohttp.ClientError, OSError) as failure:
        raise ControlError(f"{url} did not answer: {failure}", "unreachable") from failure
    if response.status != 200:
        text = " ".join(content.decode(errors="replace").split())[:200]
        raise ControlError(f"{url} answered {response.status}: {text}", "status", response.status)
    return content
