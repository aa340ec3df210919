"""Words that tables, figures and sentences share: where a result is from, and numbers as they are read."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from common.core.stats import Estimate
from common.store.schema import Result

CARRIES_OVER = (
    "On CPU slices the method and the shape of the loss carry over to GPUs; the numbers do not: slices share memory"
    " bandwidth, last-level cache and turbo."
)


def machine(result: Result) -> str:
    """What the devices are: `2 x AMD EPYC, 1 core`; of somebody else's server that is not known."""
    if result.config.get("external"):
        return "a server of somebody else's"
    boards = Counter(device["name"] for device in result.environment.get("devices", []))
    return " + ".join(f"{count} x {name}" for name, count in boards.items()) or "unknown machine"


def about(result: Result) -> str:
    """Where and when a result was measured, in one line."""
    own = next((case.engine["version"] for case in result.cases if case.engine.get("version")), None)
    version = result.environment.get("versions", {}).get("vllm", own)
    unknown = "engine unknown" if result.config.get("external") else "vLLM of unknown version"
    engine = unknown if version is None else f"vLLM {version}"
    try:
        day = f"{datetime.strptime(result.run_id[:16], '%Y%m%dT%H%M%SZ').replace(tzinfo=UTC):%Y-%m-%d}"
    except ValueError:
        day = "unknown date"
    return f"{machine(result)} | {result.config.get('model', 'unknown model')} | {engine} | {day}"


def interval(estimate: Estimate, digits: int = 2) -> str:
    """`1.41 [1.33, 1.49]`, or the bare value where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def streams(count: float) -> str:
    """`1 stream`, `16 streams`."""
    return f"{count:g} stream{'' if count == 1 else 's'}"


def milliseconds(value: float | None) -> str:
    """A time in words: whole milliseconds from 100 on, three digits below."""
    assert value is not None, "what was compared was measured"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
