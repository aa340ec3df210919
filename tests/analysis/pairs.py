"""Two results that can be compared: complete in what is recorded, with planted speeds. Nothing here was measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from common.core.verdict import Verdict
from common.store.schema import Case, Result
from tests.analysis.planted import SHAPE, TP1, TP2, case, result

GPUS = [
    {"index": i, "kind": "gpu", "name": "A GPU", "uuid": f"GPU-{i}", "cores": [], "memory_bytes": 80 << 30}
    for i in range(2)
]
ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.7",
    "os": "Debian 12",
    "kernel": "Linux 6.1 x86_64",
    "versions": {"torch": "2.13.0+cu130", "numpy": "2.3.5", "vllm": "0.32.0"},
    "device_kind": "gpu",
    "devices": GPUS,
    "links": [{"a": 0, "b": 1, "kind": "nvlink", "nvlinks": 12, "p2p": True}],
    "host_shares_devices": False,
    "cpu": {"model": "A CPU", "physical_cores": 32, "logical_cpus": 64, "host_cores": [0, 1]},
    "memory_bytes": 256 << 30,
    "container_limits": {"cpus": None, "memory_bytes": None},
    "shared_memory": {"total_bytes": 16 << 30, "free_bytes": 15 << 30},
    "open_files_limit": 65_536,
    "ceilings": {"matrix_flops_one": 1e14, "matrix_flops_all": 2e14, "memory_bytes_per_s_one": 2e12, "seconds": 3.0},
    "settings": {"NCCL_P2P_LEVEL": "NVL"},
    "nvidia": {
        "driver": "580.65",
        "cuda": "13.0",
        "gpus": [{"index": i, "power_limit_w": 400.0, "sm_clock_hz": 2.1e8, "memory_used_bytes": 7} for i in range(2)],
    },
    "git_commit": "0123abc",
    "git_dirty": False,
}
ENGINE_SETTINGS: dict[str, Any] = {
    "model": None,
    "engine": None,
    "served_name": "qwen2-9m",
    "dtype": "auto",
    "max_num_seqs": 256,
    "extra_args": [],
}
CONFIG: dict[str, Any] = {
    "model": "qwen2-9m",
    "model_shape": SHAPE,
    "engine_settings": ENGINE_SETTINGS,
    "tp": None,
    "preset": "smoke",
    "repeats": None,
    "seed": 0,
    "engine_args": "",
    "concurrency": [1, 16],
    "input_tokens": None,
    "replicas": False,
}
RATES = (99.0, 100.0, 101.0)


def side(speed: float = 1.0, *, one_start: bool = True, rates: Sequence[float] = RATES, **changes: object) -> Result:
    """A result whose throughputs are `rates` times `speed`, and its times per token the inverse."""
    found = [speed * rate for rate in rates]
    cases = [case(plan, "fixed", 16, found, one_start=one_start) for plan in (TP1, TP2)]
    for made in cases:
        made.engine |= {"version": "0.32.0", "settings": {"max_num_seqs": 256, "block_size": 16}}
    fields: dict[str, Any] = {"config": copy.deepcopy(CONFIG), "environment": copy.deepcopy(ENVIRONMENT)}
    return result(cases, **fields | changes)


def judged(word: str, *reasons: str, remedy: str = "") -> Callable[[Case], None]:
    """Gives a case its client's verdict."""

    def judge(made: Case) -> None:
        made.client = Verdict(word, list(reasons), remedy)  # type: ignore[arg-type]

    return judge
