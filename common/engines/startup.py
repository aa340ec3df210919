"""From a started process to a proven server: wait, follow the log for phases, check that it is ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.core.layout import layout
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines.failures import EngineError, Failure, explain
from common.engines.guarded import GuardedProcess, port_is_free
from common.load import control

POLL_S = 0.1
# A line in vLLM's log, and the phase that it ends. Workers of all ranks write; the first occurrence counts.
PHASE_ENDS = (
    ("imports", "Initializing a V1 LLM engine"),
    ("ranks", "Starting to load model"),
    ("weights", "Loading weights took"),
    ("kv_cache_and_warm_up", "init engine (profile"),
)


class PhaseClock:
    """Splits a start-up into phases by the log lines that end them."""

    def __init__(self, log: Path) -> None:
        self.began = self.last = time.perf_counter()
        self.phases_s: dict[str, float] = {}
        self._log, self._offset, self._waiting = log, 0, list(PHASE_ENDS)

    def follow(self) -> str | None:
        """Read what the log has grown by; returns a phase that has just ended."""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = file.read().decode(errors="replace")
        complete = text.rpartition("\n")[0]
        self._offset += len(complete.encode())
        for index, (phase, mark) in enumerate(self._waiting):
            if mark in complete:
                self._end(phase)
                del self._waiting[: index + 1]
                return phase
        return None

    def finish(self, imported_before_s: float) -> float:
        """End the last phase; returns the whole start-up in seconds, with imports that an earlier one has made."""
        self._end("server")
        self.phases_s["imports"] = self.phases_s.get("imports", 0.0) + imported_before_s
        return self.last - self.began + imported_before_s

    def _end(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases_s[phase] = now - self.last
        self.last = now


def deadline_s(weight_bytes: int, eager: bool) -> float:
    """How long a start may take: more for large models (100 MB/s at worst) and for compiling them."""
    return 240.0 + weight_bytes / 100e6 + (0.0 if eager else 600.0)


def wait_until_serving(
    process: GuardedProcess, clock: PhaseClock, base_url: str, limit_s: float, say: Callable[[str], None]
) -> None:
    """Return once the server behind the port answers.

    Raises:
        EngineError: it ended, or took longer than `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while True:
        if phase := clock.follow():
            say(f"{phase} done")
        if not process.alive:
            raise EngineError(explain(read_log(process.log), f"vLLM ended with exit code {process.returncode}"))
        # The socket first: asking over HTTP ten times a second would cost the engine a twentieth of a core.
        if not port_is_free(process.port) and asyncio.run(control.is_healthy(base_url)):
            return
        if time.monotonic() > deadline:
            otherwise = f"vLLM was not up after {limit_s:.0f} s"
            raise EngineError(explain(read_log(process.log), otherwise))
        time.sleep(POLL_S)


def prove_ours(process: GuardedProcess, base_url: str, served_name: str) -> None:
    """Check that the process behind the port is ours and serves our model.

    Raises:
        EngineError: somebody else's server answers.
    """
    served = asyncio.run(control.served_models(base_url))
    if not process.owns_port() or served_name not in served:
        message = f"the server on port {process.port} is not the one that was started (it serves {', '.join(served)})"
        raise EngineError(Failure("foreign_server", message, "Run again: another free port will be taken"))


def prove_plan(described: list[dict[str, Any]], plan: ParallelPlan, shape: ModelShape) -> None:
    """Check that the ranks run the plan that was asked for, and hold the layers and experts that it gives them.

    Ranks of a dense model know nothing of other data-parallel engines: there the number of ranks is the proof. What a
    model does not say of itself is not held against it.

    Raises:
        EngineError: they do not.
    """
    asked = {"tp": plan.tp, "pp": plan.pp, "dp": plan.dp if shape.num_experts else 1, "ep": plan.ep}
    wrong = [
        str(rank["plan"]) for rank in described if rank["plan"] | ({} if shape.num_experts else {"dp": 1}) != asked
    ]
    wrong += [f"{len(described)} ranks"] if len(described) != plan.devices_per_replica else []
    for rank, share in zip(described, layout(replace(plan, replicas=1), shape), strict=False):
        layers, experts = [share.layers.start, share.layers.stop], len(share.experts)
        wrong += [f"layers {rank['layers']} on rank {share.rank}"] if rank["layers"] not in (None, layers) else []
        wrong += [f"{rank['experts']} experts on rank {share.rank}"] if rank["experts"] not in (None, experts) else []
    if wrong:
        message = f"the engine runs {wrong[0]} where {plan} was asked for"
        raise EngineError(Failure("wrong_plan", message, "Remove parallelism options from --engine-args"))


def read_log(path: Path, limit: int = 400_000) -> str:
    """The end of a log."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - limit))
        return file.read().decode(errors="replace")
