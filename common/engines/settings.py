"""What is pinned about an engine, equal across plans, and how it becomes vLLM's command line and environment."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.core.plan import ParallelPlan
from common.engines.importer import IMPORT_ONCE
from common.machine.devices import Device

# Ends a word of the name: HF_TOKEN, PGPASSWORD and AWS_SECRET_ACCESS_KEY, not TOKENIZERS_PARALLELISM
SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?|PRIVATE)(_|$)")
PP_LAYERS = "VLLM_PP_LAYER_PARTITION"  # vLLM's only way to be told the layers of each stage
# Read by vLLM when an engine starts, not when it is imported; the rest of an environment is read by then
CPU_SLICES, CPU_KV_GIB = "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"
READ_AT_START = ("TMPDIR", "VLLM_RPC_BASE_PATH", CPU_SLICES, CPU_KV_GIB, PP_LAYERS)
READ_BY_NOBODY = ("PYTEST_CURRENT_TEST",)  # another one in each test that starts an engine
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class InstalledEngine:
    """A vLLM in another environment than this one.

    `versions` are of python, vllm and the packages that come with it; `finds_plugin`: whether the lab's plugin, which
    counts weight bytes, is found from there.
    """

    python: str  # the interpreter's path
    versions: dict[str, str]
    finds_plugin: bool = True


@dataclass(frozen=True)
class EngineSettings:
    """Everything about an engine that must not differ between plans that are compared.

    vLLM's own defaults for batch sizes grow with TP x PP on CPUs: left alone, plans would do different work.
    """

    model: str  # a local folder
    served_name: str
    dtype: str = "auto"
    max_model_len: int = 1024
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    chunked_prefill: bool | None = None  # None: as vLLM does with this model; it cuts prompts up where it can
    long_prefill_token_threshold: int | None = None  # the most of one prompt in a step that others share
    scheduling_policy: Literal["fcfs", "priority"] | None = None  # None: vLLM's own, first come first served
    block_size: int | None = None
    eager: bool = True
    async_scheduling: bool = True
    prefix_caching: bool = False
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_gib: int = 1
    num_gpu_blocks: int | None = None  # vLLM's word for KV-cache blocks per rank, on CPUs too
    peer_to_peer: bool = True  # False: no P2P between GPUs and no custom all-reduce: communication knocked out
    extra_args: tuple[str, ...] = ()
    engine: InstalledEngine | None = None  # None: the vLLM of this environment
    offline: bool = False  # the `LLM(...)` API behind a small server of the lab's, instead of `vllm serve`

    @property
    def python(self) -> str:
        """The interpreter whose vLLM runs."""
        return self.engine.python if self.engine else sys.executable

    def command(self, plan: ParallelPlan, port: int) -> list[str]:
        """The `vllm serve` that runs one replica of `plan` on a port; `offline` differs from it by the module alone."""
        module = "common.engines.offline_server" if self.offline else "vllm.entrypoints.cli.main"
        words = [
            *(self.python, "-m", module, "serve", self.model),
            *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", self.served_name),
            *("--tensor-parallel-size", str(plan.tp)),
            *("--pipeline-parallel-size", str(plan.pp)),
            *("--data-parallel-size", str(plan.dp)),
            *("--dtype", self.dtype),
            *("--max-model-len", str(self.max_model_len)),
            *("--max-num-seqs", str(self.max_num_seqs)),
            *("--max-num-batched-tokens", str(self.max_num_batched_tokens)),
            *("--gpu-memory-utilization", str(self.gpu_memory_utilization)),
            *("--generation-config", "vllm", "--seed", "0"),
            "--enable-prefix-caching" if self.prefix_caching else "--no-enable-prefix-caching",
            "--async-scheduling" if self.async_scheduling else "--no-async-scheduling",
            *("--worker-extension-cls", "common.engines.rank_probe.RankProbe"),
            *("--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"),
        ]
        words += ["--num-gpu-blocks-override", str(self.num_gpu_blocks)] if self.num_gpu_blocks else []
        words += self._scheduling_words()
        words += ["--block-size", str(self.block_size)] if self.block_size else []
        words += ["--enforce-eager"] if self.eager else []
        words += [] if self.peer_to_peer else ["--disable-custom-all-reduce"]
        words += ["--enable-expert-parallel"] if plan.ep else []
        # vLLM would start a front end for each data-parallel engine: one per replica, as every other plan has
        words += ["--api-server-count", "1"] if plan.dp > 1 else []
        return [*words, *self.extra_args]

    def _scheduling_words(self) -> list[str]:
        words: list[str] = []
        if self.chunked_prefill is not None:
            words += ["--enable-chunked-prefill" if self.chunked_prefill else "--no-enable-chunked-prefill"]
        if self.long_prefill_token_threshold is not None:
            words += ["--long-prefill-token-threshold", str(self.long_prefill_token_threshold)]
        return words + (["--scheduling-policy", self.scheduling_policy] if self.scheduling_policy else [])

    def environment(self, plan: ParallelPlan, devices: Sequence[Device], scratch: Path) -> dict[str, str]:
        """The engine's environment: its devices, its pipeline stages, its scratch folder, and no calls home."""
        added = {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_SERVER_DEV_MODE": "1",  # for /collective_rpc; the server listens on loopback only
            "VLLM_RPC_BASE_PATH": str(scratch),
            "TMPDIR": str(scratch),
            "HF_HUB_OFFLINE": "1",  # the model is already here
            "PYTHONUNBUFFERED": "1",
            **_device_environment(devices, self.cpu_kv_cache_gib),
            **({PP_LAYERS: ",".join(map(str, plan.stage_layers))} if plan.stage_layers else {}),
            # Eager on a CPU, vLLM still compiles one helper of the split embedding: at TP > 1 the first request
            # then waits 9 to 20 s for g++. Steady speed is the same without.
            **({"TORCH_COMPILE_DISABLE": "1"} if self.eager and devices[0].kind == "cpu" else {}),
            **({IMPORT_ONCE: os.environ.get(IMPORT_ONCE, "1")} if devices[0].kind == "cpu" else {}),
        }
        added |= {} if self.peer_to_peer else {"NCCL_P2P_DISABLE": "1"}
        inherited = base_environment()
        inherited.pop(PP_LAYERS, None)  # stages are the plan's
        return {**inherited, **added}


def importer_of(python: str, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The process that an engine of this environment is forked from, for `GuardedProcess`; `None`: it starts alone."""
    if environment.get(IMPORT_ONCE) != "1":
        return None
    shared = {name: value for name, value in environment.items() if name not in (*READ_AT_START, *READ_BY_NOBODY)}
    return {"command": [python, "-m", "common.engines.importer"], "env": shared}


def _device_environment(devices: Sequence[Device], cpu_kv_cache_gib: int) -> dict[str, str]:
    if devices[0].kind == "gpu":
        return {"CUDA_VISIBLE_DEVICES": ",".join(device.uuid or str(device.index) for device in devices)}
    slices = [",".join(str(core) for core in device.cores) for device in devices]
    return {
        CPU_KV_GIB: str(cpu_kv_cache_gib),  # per rank; unset, vLLM takes most of the machine's memory
        CPU_SLICES: "|".join(slices),  # `auto` refuses more ranks than NUMA nodes
    }


def base_environment() -> dict[str, str]:
    """This process's environment without secrets, and with this checkout first on PYTHONPATH.

    vLLM's ranks import the probe from there, and find the plugin by the metadata that an editable install leaves there,
    whichever interpreter they run under.
    """
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    return {**_without_secrets(os.environ), "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An engine that is offline needs no token, and one in its environment could end up in a log."""
    return {name: value for name, value in environment.items() if not SECRET.search(name.upper())}


def parse_engine_args(text: str) -> tuple[str, ...]:
    """Split `--engine-args "..."` as a shell would.

    Raises:
        ValueError: unbalanced quotes, or an option that the plan or the lab itself sets.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"--engine-args {text!r}: {str(error).lower()}; quote it as one string") from error
    owned = {"--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp"}
    owned |= {"--host", "--port", "--served-model-name", "--worker-extension-cls", "--model", "--api-key"}
    for word in words:
        if word.partition("=")[0].replace("_", "-") in owned:  # vLLM takes either
            raise ValueError(f"--engine-args may not set {word}: the plan and the lab do; use --tp for the size")
    return words
