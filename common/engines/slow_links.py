"""Communication made slower on purpose: the knock-out that tests an account of where speed is lost.

Set by `EngineSettings.all_reduce_delay_us`. On CPUs each all-reduce of tensor parallelism waits that long first. The
waiting rank sleeps, as the host of a GPU does that waits for a link: a rank that spun would keep its core from the API
server, and cost more than the delay. On GPUs a wait of the host would be lost in CUDA graphs: there the fast paths are
taken away instead (`EngineSettings.peer_to_peer`).
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

DELAY_US = "LAB_ALL_REDUCE_DELAY_US"
WAKES_LATE_S = 100e-6  # a sleeper may: the kernel's timers are allowed 50 us, and then somebody else has the core


def delay_us() -> float | None:
    """What this process' environment asks for; None where it asks for nothing."""
    return float(os.environ.get(DELAY_US, "0")) or None


def slow_down_all_reduces() -> None:
    """Make every all-reduce of this process wait first, once, where the environment asks for it."""
    microseconds = delay_us()
    if microseconds is None:
        return
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    all_reduce = CpuCommunicator.all_reduce
    if getattr(all_reduce, "waits", False):
        return

    @functools.wraps(all_reduce)
    def wait_then_reduce(self: Any, states: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        until = time.perf_counter() + microseconds / 1e6
        time.sleep(max(0.0, microseconds / 1e6 - WAKES_LATE_S))
        while time.perf_counter() < until:
            pass
        return all_reduce(self, states)

    wait_then_reduce.waits = True  # type: ignore[attr-defined]
    CpuCommunicator.all_reduce = wait_then_reduce
