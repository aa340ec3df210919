"""When requests are sent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClosedLoop:
    """A fixed number of requests in flight: the next is sent when one ends."""

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {self.concurrency}")


@dataclass(frozen=True)
class OpenLoop:
    """Requests sent by the clock, whether or not earlier ones have ended.

    Gaps are gamma-distributed with shape `burstiness`: 1 is Poisson, below 1 burstier, as in `vllm bench serve`;
    `None`, the limit of large values, is constant gaps. With `final_rate_per_s` the rate ramps linearly from the
    first request to the last.
    """

    rate_per_s: float
    burstiness: float | None = 1.0
    final_rate_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("rate_per_s", "burstiness", "final_rate_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")

    def schedule_s(self, requests: int, seed: int) -> npt.NDArray[np.float64]:
        """Intended send times in seconds from the start, shape (requests,), ascending.

        Times are rescaled so that the last request comes when the rate says it should: seeds then differ in
        pattern and not in load (`vllm/benchmarks/serve.py:get_request`).
        """
        rates = np.linspace(self.rate_per_s, self.final_rate_per_s or self.rate_per_s, requests)
        if self.burstiness is None:
            gaps = 1.0 / rates
        else:
            gaps = np.random.default_rng(seed).gamma(self.burstiness, 1.0 / (rates * self.burstiness))
        times = np.cumsum(gaps)
        return np.asarray(times * (np.sum(1.0 / rates) / times[-1]), dtype=np.float64)


@dataclass(frozen=True)
class Replay:
    """Requests sent at the times of a recording, `time_scale` times as slow: 0.5 is twice the load."""

    time_scale: float

    def __post_init__(self) -> None:
        if not 0 < self.time_scale < math.inf:
            raise ValueError(f"time_scale must be positive and finite, not {self.time_scale}")


Arrivals = ClosedLoop | OpenLoop | Replay
