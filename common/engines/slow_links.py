"""Communication made slower on purpose: the knock-out that tests an account of where speed is lost.

On CPUs each all-reduce of tensor parallelism waits first, from the moment that an experiment says so until it says
otherwise (`RankProbe.lab_slow_all_reduces`): the same engine is measured with and without, by turns. The waiting rank
sleeps, as the host of a GPU does that waits for a link: a rank that spun would keep its core from the API server, and
cost more than the delay. On GPUs a wait of the host would be lost in CUDA graphs: there the fast paths are taken away
from an engine of its own instead (`EngineSettings.peer_to_peer`).
"""

from __future__ import annotations

import functools
import time
from typing import Any

WAKES_LATE_S = 100e-6  # a sleeper may: the kernel's timers are allowed 50 us, and then somebody else has the core

_wait_s = 0.0


def slow_all_reduces(microseconds: float) -> None:
    """Have every all-reduce of this process wait so long first, from now on; 0: as it was."""
    global _wait_s
    _wait_s = microseconds / 1e6
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    all_reduce = CpuCommunicator.all_reduce
    if getattr(all_reduce, "waits", False):
        return

    @functools.wraps(all_reduce)
    def wait_then_reduce(self: Any, states: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        if _wait_s:
            _wait()
        return all_reduce(self, states)

    wait_then_reduce.waits = True  # type: ignore[attr-defined]
    CpuCommunicator.all_reduce = wait_then_reduce


def _wait() -> None:
    until = time.perf_counter() + _wait_s
    time.sleep(max(0.0, _wait_s - WAKES_LATE_S))
    while time.perf_counter() < until:
        pass
