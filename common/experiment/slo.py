"""Limits that a user sets on latency, for goodput."""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.core.limits import LIMITED
from common.experiment.options import InputError

DEFAULT_SLO = {"cpu": "ttft=1000 tpot=100", "gpu": "ttft=500 tpot=50"}  # milliseconds


def parse_slo(words: Sequence[str]) -> dict[str, float]:
    """`ttft=500 tpot=50`, in one word or several, as milliseconds by name; `ttft:500,tpot:50` is the same.

    Raises:
        InputError: not such limits.
    """
    limits: dict[str, float] = {}
    for word in " ".join(words).replace(",", " ").split():
        name, separator, number = word.replace("=", ":", 1).partition(":")
        try:
            limit = float(number) if separator else math.nan
        except ValueError:
            limit = math.nan
        if name not in LIMITED or not 0 < limit < math.inf:
            raise InputError(f'--slo {word}: write limits in milliseconds for {", ".join(LIMITED)}, as in "ttft=500"')
        if name in limits:
            raise InputError(f"--slo limits {name} twice: leave one out")
        limits[name] = limit
    if not limits:
        raise InputError("--slo needs a limit in milliseconds, as in --slo ttft=500 tpot=50")
    return limits
