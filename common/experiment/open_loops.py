"""Open loops as they are asked for on a command line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.core.arrivals import OpenLoop
from common.experiment.options import InputError

FEWEST_REQUESTS = 32  # a steady window needs 16 after the first has ended
MOST_PER_S = 100_000.0


def check_open_loops(rates: Sequence[float], burstiness: float, final_rate: float | None) -> None:
    """Check the options of open loops.

    Raises:
        InputError: a number out of its range, or nothing to act on.
    """
    for flag, values in {"--rate": rates, "--final-rate": [] if final_rate is None else [final_rate]}.items():
        for value in values:
            if not 0 < value <= MOST_PER_S:
                raise InputError(f"{flag} {value:g}: requests per second, above 0 and at most {MOST_PER_S:g}")
    if not burstiness > 0:
        raise InputError(f"--burstiness {burstiness:g}: above 0; 1 is Poisson, less comes in bursts, inf is constant")
    if not rates and (burstiness != 1 or final_rate is not None):
        flag = "--burstiness" if burstiness != 1 else "--final-rate"
        raise InputError(f"{flag} is for what comes by the clock: add --rate")
    if final_rate is not None and len(rates) > 1:
        raise InputError("--final-rate goes with a single --rate, from which it rises or falls")


def open_loops(rates: Sequence[float], burstiness: float, final_rate: float | None) -> list[OpenLoop]:
    """One for every rate, ascending; an infinite burstiness means constant gaps."""
    gaps = None if math.isinf(burstiness) else burstiness
    return [OpenLoop(rate, gaps, final_rate) for rate in sorted(set(rates))]


def requests_at(arrivals: OpenLoop, seconds: float) -> int:
    """Requests in about so many seconds, as many as a steady window needs at the least."""
    mean = (arrivals.rate_per_s + (arrivals.final_rate_per_s or arrivals.rate_per_s)) / 2
    return max(FEWEST_REQUESTS, round(mean * seconds))
