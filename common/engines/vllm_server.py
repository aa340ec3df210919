"""One replica of a plan: one guarded `vllm serve`, or offline `LLM(...)`, asked over HTTP what its ranks know."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from common.core.plan import ParallelPlan
from common.engines import startup
from common.engines.guarded import GuardedProcess, free_port
from common.engines.models import shape_of
from common.engines.settings import EngineSettings, importer_of
from common.load import control
from common.load.client import Endpoint
from common.machine import gpus, memory
from common.machine.devices import Device

RPC_TIMEOUT_S = 120.0
DEVICE_MEMORY_DEADLINE_S, DEVICE_MEMORY_TOLERANCE_BYTES = 15.0, 256 << 20


class VllmServer:
    """One `vllm serve`, or one offline `LLM(...)`: one replica of a plan on its devices."""

    def __init__(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings, log: Path) -> None:
        self.plan, self.devices, self.settings = plan, devices, settings
        self._gpu_bytes_before = _gpu_bytes(devices)
        port = free_port()
        scratch = Path(tempfile.mkdtemp(prefix="lab-"))
        log.write_bytes(b"")
        self.clock = startup.PhaseClock(log)
        command, environment = settings.command(plan, port), settings.environment(plan, devices, scratch)
        self.process = GuardedProcess(command, environment, log, port, importer_of(settings.python, environment))
        self.endpoint = Endpoint("127.0.0.1", port, settings.served_name)
        self.base_url = f"http://127.0.0.1:{port}"
        self.startup_s = math.nan
        self.ranks: list[dict[str, Any]] = []
        self.front_end: psutil.Process | None = None

    def wait(self, limit_s: float, say: Callable[[str], None]) -> None:
        """Return once it is up, ours, and runs the plan.

        Raises:
            EngineError: it is not.
        """
        startup.wait_until_serving(self.process, self.clock, self.base_url, limit_s, say)
        self.startup_s = self.clock.finish(self.process.imported_before_s)
        startup.prove_ours(self.process, self.base_url, self.settings.served_name)
        self.front_end = self.process.listener()
        self.ranks = self.ask_ranks("lab_describe")
        shape = shape_of(Path(self.settings.model))
        startup.prove_plan(self.ranks, self.plan, shape)

    def ask_ranks(self, method: str, *arguments: str) -> list[dict[str, Any]]:
        """Run a method of `RankProbe` in every rank at once; one answer per rank."""
        return asyncio.run(control.collective_rpc(self.base_url, method, arguments, RPC_TIMEOUT_S))

    def kv_cache_tokens(self) -> int | None:
        """Tokens of KV cache that the server has, by its own report: of all its data-parallel engines together."""
        labels = asyncio.run(control.cache_config(self.base_url))
        try:
            return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
        except (KeyError, ValueError):
            return None

    def front_end_cpu_s(self) -> float | None:
        """CPU seconds that the API server has used since it began."""
        with contextlib.suppress(psutil.Error):
            if self.front_end is not None:
                used = self.front_end.cpu_times()
                return float(used.user + used.system)
        return None

    def memory_bytes_per_rank(self) -> list[int]:
        """What each rank occupies: its own pages (USS) on CPUs, its device's memory in use on GPUs."""
        if self.devices[0].kind == "gpu":
            used = [gpus.used_bytes(device.uuid) for device in self.devices if device.uuid]
        else:
            used = [memory.resident_bytes(int(rank["pid"])).uss_bytes for rank in self.ranks]
        return [value for value in used if value is not None]

    def device_memory_left_bytes(self) -> int:
        """GPU memory above what was in use before the start; the driver frees it some time after a process ends."""
        deadline = time.monotonic() + DEVICE_MEMORY_DEADLINE_S
        while True:
            left = _gpu_bytes(self.devices) - self._gpu_bytes_before
            if left <= DEVICE_MEMORY_TOLERANCE_BYTES:
                return 0
            if time.monotonic() > deadline:
                return left
            time.sleep(0.2)


def _gpu_bytes(devices: Sequence[Device]) -> int:
    return sum(gpus.used_bytes(device.uuid) or 0 for device in devices if device.uuid)
