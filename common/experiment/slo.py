"""Limits that a user sets on latency, for goodput."""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.experiment.options import InputError

LIMITED = ("ttft", "tpot", "e2el")
DEFAULT_SLO = {"cpu": "ttft:1000 tpot:100", "gpu": "ttft:500 tpot:50"}  # milliseconds


def parse_slo(words: Sequence[str]) -> dict[str, float]:
    """`ttft:500 tpot:50`, in one word or several, as milliseconds by name.

    Raises:
        InputError: not such limits.
    """
    limits: dict[str, float] = {}
    for word in " ".join(words).split():
        name, separator, number = word.partition(":")
        try:
            limit = float(number) if separator else math.nan
        except ValueError:
            limit = math.nan
        if name not in LIMITED or not 0 < limit < math.inf:
            raise InputError(f'--slo {word}: write limits in milliseconds for {", ".join(LIMITED)}, as in "ttft:500"')
        if name in limits:
            raise InputError(f"--slo limits {name} twice: leave one out")
        limits[name] = limit
    if not limits:
        raise InputError('--slo needs a limit in milliseconds, as in --slo "ttft:500 tpot:50"')
    return limits
