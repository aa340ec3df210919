"""The seam to an engine: start, address, facts, stop. Everything above it sees only this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.core.plan import ParallelPlan
from common.engines.failures import Failure
from common.engines.guarded import Gone
from common.engines.settings import EngineSettings
from common.load.client import Endpoint
from common.machine.devices import Device


@dataclass(frozen=True)
class AllReduceTime:
    """One all-reduce of a message size, the slowest rank's; a lower bound on what the model pays."""

    tokens: int
    bytes: int
    seconds: float
    path: str


@dataclass(frozen=True)
class TracedAllReduces:
    """What the all-reduces of a short decoding run took, waiting for the slowest rank included: an upper bound.

    `share` is their time over the time from the first operation to the last, on the rank where it is largest.
    """

    streams: int
    share: float
    all_reduce_s: float
    span_s: float


@dataclass(frozen=True)
class EngineFacts:
    """What an engine says about itself once it serves; lists are per rank, replicas one after another."""

    version: str | None
    startup_s: float | None  # None: somebody else started it
    startup_phases_s: dict[str, float]
    kv_cache_tokens: int | None  # over all replicas
    weight_bytes_per_rank: list[int]
    memory_bytes_per_rank: list[int]  # USS on CPUs, device memory on GPUs
    settings: dict[str, Any]
    all_reduce: list[AllReduceTime] = field(default_factory=list)
    all_reduce_traced: TracedAllReduces | None = None  # known once its cases are measured
    load_report_bytes_per_rank: list[int] = field(default_factory=list)  # vLLM's own "Model loading took", GPUs only
    layers_per_rank: list[tuple[int, int]] = field(default_factory=list)  # first, and one past the last
    experts_per_rank: list[int] = field(default_factory=list)  # of each layer; of a dense model none


class Engine(Protocol):
    """A running thing that serves tokens under a plan."""

    plan: ParallelPlan
    facts: EngineFacts

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """One per replica."""

    def pids(self) -> list[int]:
        """Every process of the engine."""

    def metrics(self) -> dict[str, float]:
        """The servers' own counters and gauges now, summed over replicas; EngineError when there is no answer."""

    def front_end_cpu_s(self) -> list[float]:
        """CPU seconds that each replica's API server has used so far; empty where that is unknown."""

    def slow_all_reduces(self, delay_us: float, tokens: Sequence[int]) -> Sequence[AllReduceTime]:
        """Have each all-reduce wait so long first, from now on (0: as it was), on CPUs; times those of so many tokens.

        Raises:
            EngineError: there is no answer.
        """

    def trace_all_reduces(self) -> TracedAllReduces | None:
        """Profile a short run; `None` where there is nothing to see. Last of all: profiled ranks stay slower.

        Raises:
            EngineError: there is no answer.
        """

    def alive(self) -> bool:
        """Whether its processes run; cheap enough to ask four times a second under load."""

    def death(self) -> Failure | None:
        """Why the engine no longer serves, or None while it does."""

    def stop(self) -> Gone:
        """End it and prove that it is gone."""


class StartsEngines(Protocol):
    """Whoever can start an engine: `VllmLauncher`, or a fake in the tests of sweep and resume."""

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> Engine:
        """Start an engine and return it once it serves.

        Raises:
            EngineError: it did not start; the failure says why and what to do.
        """
