"""What the fields of a case file may hold: each is read, or refused with a ValueError that names it and its value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from common.core.legality import MOST_DEVICES

# Beyond these a number is a slip of the pen, or of the unit
MOST_TOKENS, MOST_STREAMS, MOST_RATE = 1e8, 1e9, 1e12
USUAL_CONCURRENCY = 16.0
LONGEST_SHOWN = 40
LATENCIES = ("latency_s", "latency_ms", "tpot_ms", "itl_ms")


def text(case: Mapping[str, Any], field: str) -> str:
    """What a field says; empty where it says nothing."""
    value = case.get(field)
    if value is None:
        return ""
    if field in ("id", "group") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"'{field}' is {shown(value)}: text is needed")
    return value


def count(row: Mapping[str, Any], field: str, default: int | None = None) -> int:
    """A whole number of devices, or the default where there is none."""
    value = row.get(field)
    value = default if value is None else value
    if not _is_number(value) or not 1 <= value <= MOST_DEVICES or value != int(value):
        raise ValueError(f"'{field}' is {shown(value)}: a whole number from 1 to {MOST_DEVICES} is needed")
    return int(value)


def length(case: Mapping[str, Any], field: str, usual: float, assumed: list[str]) -> float:
    """Tokens of a request; where the source has only words for it, the usual ones, and that is said in `assumed`."""
    value = case.get(field)
    number = re.match(r"(-?\d+(?:\.\d+)?)(?![\w.,])", value.strip()) if isinstance(value, str) else None
    if value is None or (isinstance(value, str) and number is None):
        assumed.append(field)
        return usual
    tokens = float(number[1]) if number else value
    if not _is_number(tokens) or not 1 <= tokens <= MOST_TOKENS:
        raise ValueError(f"'{field}' is {shown(value)}: lengths are 1 token or more, and at most {MOST_TOKENS:.0e}")
    return float(tokens)


def concurrency(value: object, devices: int, assumed: list[str]) -> float:
    """Streams in all: a number, "max_num_seqs=64", "400 (2 GPUs) / 200 (4 GPUs)", or "max": infinite."""
    words = value.strip() if isinstance(value, str) else ""
    for many, of_devices in re.findall(r"(\d+) \((\d+) GPUs?\)", words):
        if int(of_devices) == devices:
            return float(many)
    number = re.fullmatch(r"(?:max_num_seqs=)?(-?\d+(?:\.\d+)?)", words)
    streams: Any = float(number[1]) if number else value
    if words.startswith("max") and number is None:
        return math.inf
    if value is None or (isinstance(value, str) and number is None):
        assumed.append("concurrency")
        return USUAL_CONCURRENCY
    if not _is_number(streams) or not 0 < streams <= MOST_STREAMS:
        raise ValueError(f"'concurrency' is {shown(value)}: 1 stream or more is needed, and at most {MOST_STREAMS:.0e}")
    return float(streams)


def rate(row: Mapping[str, Any], metric: str) -> float:
    """What was measured, as a rate: latencies are inverted."""
    column = metric.removeprefix("1/")
    value = row.get(column)
    if not _is_number(value) or not 1 / MOST_RATE < value < MOST_RATE:
        raise ValueError(f"has no positive '{column}'" + ("" if value is None else f": it is {shown(value)}"))
    return 1 / value if metric.startswith("1/") or column in LATENCIES else float(value)


def shown(value: object) -> str:
    """A value as it stands in the file, cut where it is long."""
    written = json.dumps(value)
    return written if len(written) <= LONGEST_SHOWN else f"{written[:LONGEST_SHOWN]}..."


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
