"""Questions that only a rank can answer, asked through vLLM's `--worker-extension-cls` and `/collective_rpc`.

vLLM mixes `RankProbe` into its worker class; every method runs in all ranks at once and returns one dict per rank.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from common.engines import slow_links, vllm_plugin

# vLLM's operators, its custom kernels (cross_device_reduce, multimem), gloo's and NCCL's
ALL_REDUCE = re.compile(r"all_?reduce|cross_device_reduce", re.IGNORECASE)
WARM_UPS, BATCHES, CALLS_PER_BATCH = 20, 9, 20


class RankProbe:
    """Mixed into vLLM's worker; `self` is the worker. Names start with `lab_` so that they clash with nothing."""

    vllm_config: Any
    model_runner: Any
    rank: int

    def lab_describe(self) -> dict[str, Any]:
        """What this rank is and has: its place in the plan, its weights, and the settings vLLM resolved."""
        parallel, scheduler = self.vllm_config.parallel_config, self.vllm_config.scheduler_config
        model, cache = self.vllm_config.model_config, self.vllm_config.cache_config
        return {
            "rank": self.rank,
            "pid": os.getpid(),
            "weight_bytes": vllm_plugin.weight_bytes,
            "load_report_bytes": getattr(getattr(self, "model_runner", None), "model_memory_usage", None),
            "plan": {
                "tp": parallel.tensor_parallel_size,
                "pp": parallel.pipeline_parallel_size,
                "dp": parallel.data_parallel_size,
                "ep": bool(parallel.enable_expert_parallel),
            },
            **_held(self.model_runner.get_model()),
            "settings": {
                "dtype": str(model.dtype).removeprefix("torch."),
                "max_model_len": model.max_model_len,
                "enforce_eager": bool(model.enforce_eager),
                "max_num_seqs": scheduler.max_num_seqs,
                "max_num_batched_tokens": scheduler.max_num_batched_tokens,
                "async_scheduling": bool(scheduler.async_scheduling),
                "enable_chunked_prefill": bool(scheduler.enable_chunked_prefill),
                # None where it is as it always was, so that older results still say the same
                "long_prefill_token_threshold": scheduler.long_prefill_token_threshold or None,
                "scheduling_policy": None if scheduler.policy == "fcfs" else str(scheduler.policy),
                "enable_prefix_caching": bool(cache.enable_prefix_caching),
                "block_size": cache.block_size,
                "gpu_memory_utilization": cache.gpu_memory_utilization,
            },
        }

    def lab_time_all_reduce(self, tokens: str) -> dict[str, Any]:
        """Seconds of one all-reduce of `tokens` hidden states, through the path the model itself uses.

        A lower bound on what the model pays: nothing else runs meanwhile, and all ranks arrive together.
        On GPUs the calls are captured in a CUDA graph, as decoding's are.
        """
        import torch
        from vllm.distributed.parallel_state import get_tp_group

        model = self.vllm_config.model_config
        on_gpu = torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        states = torch.ones(int(tokens), model.get_hidden_size(), dtype=model.dtype, device=device)
        reduce = get_tp_group().all_reduce

        def one_batch() -> None:
            for _ in range(CALLS_PER_BATCH):
                reduce(states)

        with torch.inference_mode():
            for _ in range(WARM_UPS):
                reduce(states)
            seconds = _time_in_graph(one_batch) if on_gpu else _time_directly(one_batch)
        path = _all_reduce_path(states)
        return {
            "tokens": int(tokens),
            "bytes": states.numel() * states.element_size(),
            "seconds": seconds,
            "path": path,
        }

    def lab_slow_all_reduces(self, microseconds: str) -> dict[str, Any]:
        """On a CPU, have every all-reduce wait so long first, from now on; "0" takes it back."""
        slow_links.slow_all_reduces(float(microseconds))
        return {}

    def lab_trace_begin(self) -> dict[str, Any]:
        """Record every operation of this rank from now on with torch's profiler."""
        import torch

        kinds = torch.profiler.ProfilerActivity
        self._lab_trace = torch.profiler.profile(
            activities=[kinds.CUDA] if torch.cuda.is_available() else [kinds.CPU], acc_events=True
        )
        self._lab_trace.start()
        return {}

    def lab_trace_end(self) -> dict[str, Any]:
        """Seconds from the first operation to the last, and those spent in all-reduces, waiting for others included."""
        self._lab_trace.stop()
        spans = [(event.time_range.start, event.time_range.end, event.name) for event in self._lab_trace.events()]
        del self._lab_trace
        reduces = [(begin, end) for begin, end, name in spans if ALL_REDUCE.search(name)]
        first = min((begin for begin, _, _ in spans), default=0.0)
        last = max((end for _, end, _ in spans), default=0.0)
        return {"span_s": (last - first) / 1e6, "all_reduce_s": _covered(reduces) / 1e6, "calls": len(reduces)}


def _held(model: Any) -> dict[str, Any]:  # noqa: ANN401  # a torch.nn.Module; torch is imported only inside a rank
    """What a loaded model has of its layers ([first, one past the last]) and experts; None where it does not say."""
    inner = getattr(model, "model", model)
    layers = [getattr(inner, name, None) for name in ("start_layer", "end_layer")]
    counts = (getattr(module, "local_num_experts", None) for module in model.modules())
    return {
        "layers": None if None in layers else layers,
        "experts": next((count for count in counts if isinstance(count, int)), None),
    }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The time that at least one span covers: an operation and the kernel inside it are counted once."""
    covered, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


def _time_directly(one_batch: Callable[[], None]) -> float:
    durations = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        one_batch()
        durations.append((time.perf_counter() - began) / CALLS_PER_BATCH)
    return median(durations)


def _time_in_graph(one_batch: Callable[[], None]) -> float:
    import torch
    from vllm.distributed.parallel_state import graph_capture

    graph = torch.cuda.CUDAGraph()
    here = torch.device("cuda", torch.cuda.current_device())
    with graph_capture(device=here) as context, torch.cuda.graph(graph, stream=context.stream):
        one_batch()
    durations = []
    for _ in range(BATCHES):
        torch.cuda.synchronize()
        began = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        durations.append((time.perf_counter() - began) / CALLS_PER_BATCH)
    return median(durations)


def _all_reduce_path(states: Any) -> str:  # noqa: ANN401  # a torch.Tensor; torch is imported only inside a rank
    """The name of the path vLLM takes for this message: shm, gloo, custom, symmetric memory or nccl."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return "none"
    communicator = group.device_communicator
    module = getattr(communicator, "dist_module", None)
    if module is not None:
        return "shm" if type(module).__name__ == "_CPUSHMDistributed" else "gloo"
    custom = getattr(communicator, "ca_comm", None)
    if custom is not None and not custom.disabled and custom.should_custom_ar(states):
        return "custom"
    symmetric = getattr(communicator, "symm_mem_comm", None)
    if symmetric is not None and not symmetric.disabled and symmetric.should_use_symm_mem(states):
        return "symmetric memory"
    return "nccl"
