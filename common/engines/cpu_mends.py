"""What vLLM 0.32's CPU back end breaks for plans other than tensor parallelism, and how the lab mends it.

Each mend is a function whose docstring names the fault and says when it can go. They change nothing where vLLM does the
right thing by itself, act in ranks on a CPU only, and once per process.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

_mended: set[str] = set()


def mend() -> None:
    """Apply every mend whose class this process has imported, each once."""
    for module, apply in _MENDS.items():
        if module in sys.modules and module not in _mended:
            _mended.add(module)
            apply(sys.modules[module])


def give_stages_their_buffers(module: Any) -> None:  # noqa: ANN401  # a module of vLLM's
    """Eager pipeline parallelism: every stage but the first died of `assert self.intermediate_tensors is not None`.

    The buffers for what the stage before sends are made in the warm-up run, which the CPU worker skips in eager mode
    with a fixed KV cache. They are made at first use instead. Can go when `CPUModelRunner.load_model` or
    `sync_and_gather_intermediate_tensors` makes them.
    """
    runner = module.CPUModelRunner
    take_in = runner.sync_and_gather_intermediate_tensors

    @functools.wraps(take_in)
    def make_then_take_in(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        if self.intermediate_tensors is None:
            self.intermediate_tensors = self.model.make_empty_intermediate_tensors(
                batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )
        return take_in(self, *args, **kwargs)

    runner.sync_and_gather_intermediate_tensors = make_then_take_in


def number_experts_locally(module: Any) -> None:  # noqa: ANN401  # a module of vLLM's
    """Expert parallelism: ranks died of a segmentation fault in `cpu_fused_moe`.

    Tokens come with the numbers of their experts in the whole model, and `CPUUnquantizedExperts.apply` uses them as
    places among the experts that the rank holds; it is given `expert_map`, from the one to the other, and ignores it.
    Numbers are translated first, and an expert that lives elsewhere counts with weight 0. Can go when `apply` reads
    `expert_map`.
    """
    experts = module.CPUUnquantizedExperts
    apply = experts.apply

    @functools.wraps(apply)
    def translate_then_apply(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # vLLM's signature, not ours
        expert_map = kwargs.get("expert_map")
        if expert_map is not None:
            kwargs["topk_ids"], kwargs["topk_weights"] = local_experts(
                kwargs["topk_ids"], kwargs["topk_weights"], expert_map
            )
        return apply(self, *args, **kwargs)

    experts.apply = translate_then_apply


def local_experts(topk_ids: Any, topk_weights: Any, expert_map: Any) -> tuple[Any, Any]:  # noqa: ANN401  # torch.Tensor
    """Numbers (tokens x k, any integer type) as places among a rank's experts, and weights that are 0 elsewhere.

    `expert_map` holds a place for each expert of the model, -1 for those of other ranks.
    """
    places = expert_map[topk_ids.long()]
    elsewhere = places < 0
    return places.masked_fill(elsewhere, 0).to(topk_ids.dtype), topk_weights.masked_fill(elsewhere, 0)


_MENDS = {
    "vllm.v1.worker.cpu_model_runner": give_stages_their_buffers,
    "vllm.model_executor.layers.fused_moe.experts.cpu_moe": number_experts_locally,
}
