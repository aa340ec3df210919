"""What the lab adds to vLLM, loaded by vLLM itself in each of its processes (`vllm.general_plugins`).

One thing: each rank's weight bytes are counted right after loading. Later it is too late, because the CPU back end
packs linear weights away and they are no longer parameters.
"""

from __future__ import annotations

from typing import Any

weight_bytes: int | None = None  # of this process' rank, once its model is loaded


def register() -> None:
    """Entry point; vLLM may call it several times in one process."""
    from vllm.model_executor.model_loader import base_loader

    finish_loading = base_loader.process_weights_after_loading
    if getattr(finish_loading, "counts_weights", False):
        return

    def count_then_finish(model: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        global weight_bytes
        weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        return finish_loading(model, *args, **kwargs)

    count_then_finish.counts_weights = True  # type: ignore[attr-defined]
    base_loader.process_weights_after_loading = count_then_finish
