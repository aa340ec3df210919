"""What the lab adds to vLLM, loaded by vLLM itself in each of its processes (`vllm.general_plugins`).

Three things, each a function below or a module of its own:

- each rank's weight bytes are counted right after loading: later it is too late, because the CPU back end packs linear
  weights away and they are no longer parameters;
- questions to ranks (`/collective_rpc`) are answered by the ranks of every data-parallel engine, where vLLM passes on
  the first engine's answers alone;
- on a CPU, and nowhere else, what its back end breaks for pipeline and expert parallelism is mended (`cpu_mends`).
"""

from __future__ import annotations

from typing import Any

from common.engines import cpu_mends

weight_bytes: int | None = None  # of this process' rank, once its model is loaded


def register() -> None:
    """Entry point; vLLM may call it several times in one process."""
    _act_when_weights_are_loaded()
    _hear_every_engine()


def _act_when_weights_are_loaded() -> None:
    """Count weights, and mend: in a rank, where the classes in question are imported by now, and before any request."""
    from vllm.model_executor.model_loader import base_loader
    from vllm.platforms import current_platform

    finish_loading = base_loader.process_weights_after_loading
    if getattr(finish_loading, "counts_weights", False):
        return

    def count_then_finish(model: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        global weight_bytes
        weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        if current_platform.is_cpu():
            cpu_mends.mend()
        return finish_loading(model, *args, **kwargs)

    count_then_finish.counts_weights = True  # type: ignore[attr-defined]
    base_loader.process_weights_after_loading = count_then_finish


def _hear_every_engine() -> None:
    """Of `collective_rpc` under data parallelism, return every engine's answers, one engine after another.

    vLLM 0.32 asks all engines and keeps the first one's answers (`DPLBAsyncMPClient.call_utility_async`). Can go when
    it returns all.
    """
    from vllm.v1.engine import core_client

    client_class: Any = getattr(core_client, "DPLBAsyncMPClient", None)
    if not hasattr(client_class, "call_utility_all_async"):
        return  # another version of vLLM

    async def every_engine(client: Any, method: Any, timeout: Any, args: Any, kwargs: Any) -> list[Any]:  # noqa: ANN401
        answers = await client.call_utility_all_async("collective_rpc", method, timeout, args, kwargs)
        return [rank for engine in answers for rank in engine]

    client_class.collective_rpc_async = every_engine
