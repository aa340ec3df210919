"""What vLLM 0.32's CPU back end breaks for plans other than tensor parallelism, and how the lab mends it.

Each mend wraps one method of vLLM's; its docstring names the fault and says when it can go. Mends change nothing where
vLLM does the right thing by itself, act in ranks on a CPU only, and leave a vLLM alone that lacks the method.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

Method = Callable[..., Any]


def mend() -> None:
    """Apply every mend whose class this process has imported, each once."""
    for (module, owner, name), around in MENDS.items():
        holder = getattr(sys.modules.get(module), owner, None)
        method = getattr(holder, name, None)
        if method is not None and not hasattr(method, "mended"):
            mended = functools.wraps(method)(around(method))
            mended.mended = True  # type: ignore[attr-defined]
            setattr(holder, name, mended)


def give_stages_their_buffers(take_in: Method) -> Method:
    """Eager pipeline parallelism: every stage but the first died of `assert self.intermediate_tensors is not None`.

    The buffers for what the stage before sends are made in the warm-up run, which the CPU worker skips in eager mode
    with a fixed KV cache. They are made at first use instead. Can go when `CPUModelRunner.load_model` or
    `sync_and_gather_intermediate_tensors` makes them.
    """

    def make_then_take_in(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        if self.intermediate_tensors is None:
            self.intermediate_tensors = self.model.make_empty_intermediate_tensors(
                batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )
        return take_in(self, *args, **kwargs)

    return make_then_take_in


def number_experts_locally(apply: Method) -> Method:
    """Expert parallelism: ranks died of a segmentation fault in `cpu_fused_moe`.

    Tokens come with the numbers of their experts in the whole model, and `CPUUnquantizedExperts.apply` uses them as
    places among the experts that the rank holds; it is given `expert_map`, from the one to the other, and ignores it.
    Numbers are translated first, and an expert that lives elsewhere counts with weight 0. Can go when `apply` reads
    `expert_map`.
    """

    def translate_then_apply(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        expert_map = kwargs.get("expert_map")
        if expert_map is not None:
            kwargs["topk_ids"], kwargs["topk_weights"] = local_experts(
                kwargs["topk_ids"], kwargs["topk_weights"], expert_map
            )
        return apply(self, *args, **kwargs)

    return translate_then_apply


def local_experts(topk_ids: Any, topk_weights: Any, expert_map: Any) -> tuple[Any, Any]:  # noqa: ANN401  # torch.Tensor
    """Numbers (tokens x k, any integer type) as places among a rank's experts, and weights that are 0 elsewhere.

    `expert_map` holds a place for each expert of the model, -1 for those of other ranks.
    """
    places = expert_map[topk_ids.long()]
    elsewhere = places < 0
    return places.masked_fill(elsewhere, 0).to(topk_ids.dtype), topk_weights.masked_fill(elsewhere, 0)


MENDS: dict[tuple[str, str, str], Callable[[Method], Method]] = {
    (
        "vllm.v1.worker.cpu_model_runner",
        "CPUModelRunner",
        "sync_and_gather_intermediate_tensors",
    ): give_stages_their_buffers,
    (
        "vllm.model_executor.layers.fused_moe.experts.cpu_moe",
        "CPUUnquantizedExperts",
        "apply",
    ): number_experts_locally,
}
