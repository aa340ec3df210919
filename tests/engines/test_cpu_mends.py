"""The mends without an engine: what they change, and that they change nothing where nothing is broken."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines import cpu_mends
from common.engines.failures import EngineError
from common.engines.reference_models import REFERENCE_MODELS
from common.engines.startup import prove_plan

RUNNER, EXPERTS = "vllm.v1.worker.cpu_model_runner", "vllm.model_executor.layers.fused_moe.experts.cpu_moe"
DENSE, MOE = (ModelShape.from_config(REFERENCE_MODELS[name].config()) for name in ("qwen2-9m", "qwen3-moe-16m"))


class Runner:
    """As vLLM's: with buffers it takes in what the stage before sent, without it fails."""

    max_num_tokens = 7
    device = "cpu"
    model_config = SimpleNamespace(dtype="float32")

    def __init__(self, buffers: Any = None) -> None:  # noqa: ANN401
        self.intermediate_tensors = buffers
        self.made: list[tuple[int, str, str]] = []
        self.model = SimpleNamespace(make_empty_intermediate_tensors=self.make)

    def make(self, batch_size: int, dtype: str, device: str) -> str:
        self.made.append((batch_size, dtype, device))
        return "buffers"

    def sync_and_gather_intermediate_tensors(self, tokens: int, sent: str, sync: bool) -> tuple[Any, int, str, bool]:
        assert self.intermediate_tensors is not None
        return self.intermediate_tensors, tokens, sent, sync


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> type[Runner]:
    mended = type("CPUModelRunner", (Runner,), {})
    monkeypatch.setitem(sys.modules, RUNNER, SimpleNamespace(CPUModelRunner=mended))
    monkeypatch.delitem(sys.modules, EXPERTS, raising=False)
    cpu_mends.mend()
    cpu_mends.mend()
    return mended


def test_a_stage_without_buffers_gets_them_once(runner: type[Runner]) -> None:
    stage = runner()
    for _ in range(2):
        assert stage.sync_and_gather_intermediate_tensors(3, "states", sync=True) == ("buffers", 3, "states", True)
    assert stage.made == [(7, "float32", "cpu")]


def test_a_stage_that_has_buffers_keeps_them(runner: type[Runner]) -> None:
    stage = runner("its own")
    assert stage.sync_and_gather_intermediate_tensors(3, "states", True)[0] == "its own"
    assert stage.made == []


@pytest.mark.slow
def test_experts_are_numbered_by_place_and_those_elsewhere_weigh_nothing() -> None:
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[0, 5], [4, 7]], dtype=torch.int32)
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    held_4_to_7 = torch.tensor([-1, -1, -1, -1, 0, 1, 2, 3], dtype=torch.int32)
    places, left = cpu_mends.local_experts(ids, weights, held_4_to_7)
    assert places.tolist() == [[0, 1], [0, 3]]
    assert places.dtype == torch.int32
    assert left.tolist() == [[0.0, 0.75], [0.5, 0.5]]
    assert weights.tolist() == [[0.25, 0.75], [0.5, 0.5]], "the router's own are left alone"


@pytest.mark.vllm
def test_what_two_ranks_add_up_is_what_one_computes() -> None:
    """vLLM's own kernel, which no engine needs: 8 experts on one rank, and 4 on each of two."""
    import torch
    from vllm._custom_ops import cpu_fused_moe, cpu_prepack_moe_weight
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    torch.manual_seed(0)
    up, down, states = torch.randn(8, 128, 64) * 0.1, torch.randn(8, 64, 64) * 0.1, torch.randn(16, 64)
    weights, chosen = torch.softmax(torch.randn(16, 8), -1).topk(2)

    def computed(held: slice, topk_weights: Any, topk_ids: Any) -> Any:  # noqa: ANN401  # torch.Tensor
        answer = torch.empty_like(states)
        packed = [cpu_prepack_moe_weight(part[held].contiguous(), "vec") for part in (up, down)]
        cpu_fused_moe(answer, states, *packed, None, None, topk_weights, topk_ids, "silu", "vec", False)
        return answer

    whole = computed(slice(0, 8), weights, chosen.int())
    parts = torch.zeros_like(whole)
    for first in (0, 4):
        expert_map = torch.full((8,), -1, dtype=torch.int32)
        expert_map[first : first + 4] = torch.arange(4, dtype=torch.int32)
        places, left = cpu_mends.local_experts(chosen.int(), weights, expert_map)
        parts += computed(slice(first, first + 4), left, places)
    assert torch.allclose(parts, whole, atol=1e-6)
    assert whole.abs().mean() > 1e-3


def test_without_expert_parallelism_numbers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Experts:
        def apply(self, **given: object) -> dict[str, object]:
            return given

    monkeypatch.setitem(sys.modules, EXPERTS, SimpleNamespace(CPUUnquantizedExperts=Experts))
    cpu_mends.mend()
    assert hasattr(Experts.apply, "mended")
    assert Experts().apply(topk_ids="ids", topk_weights="weights", expert_map=None) == {
        "topk_ids": "ids",
        "topk_weights": "weights",
        "expert_map": None,
    }


def test_a_vllm_without_these_classes_or_methods_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class CPUModelRunner:
        pass

    monkeypatch.setitem(sys.modules, RUNNER, SimpleNamespace(CPUModelRunner=CPUModelRunner))
    monkeypatch.setitem(sys.modules, EXPERTS, SimpleNamespace())
    cpu_mends.mend()
    assert not hasattr(CPUModelRunner, "sync_and_gather_intermediate_tensors")


def test_a_mend_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[object] = []

    class CPUModelRunner:
        def sync_and_gather_intermediate_tensors(self) -> str:
            return "taken in"

    def around(method: cpu_mends.Method) -> cpu_mends.Method:
        wrapped.append(method)
        return lambda self: f"mended, {method(self)}"

    monkeypatch.setitem(cpu_mends.MENDS, (RUNNER, "CPUModelRunner", "sync_and_gather_intermediate_tensors"), around)
    monkeypatch.setitem(sys.modules, RUNNER, SimpleNamespace(CPUModelRunner=CPUModelRunner))
    for _ in range(3):
        cpu_mends.mend()
    assert CPUModelRunner().sync_and_gather_intermediate_tensors() == "mended, taken in"
    assert len(wrapped) == 1


def rank(plan: ParallelPlan, layers: list[int] | None, experts: int | None = None) -> dict[str, Any]:
    sizes = {"tp": plan.tp, "pp": plan.pp, "dp": plan.dp, "ep": plan.ep}
    return {"plan": sizes, "layers": layers, "experts": experts}


def test_ranks_that_hold_what_the_plan_gives_them_are_believed() -> None:
    plan = ParallelPlan.parse("pp5+3")
    prove_plan([rank(plan, [0, 5]), rank(plan, [5, 8])], plan, DENSE)
    prove_plan([rank(plan, None), rank(plan, None)], plan, DENSE)
    by_experts = ParallelPlan(tp=2, ep=True)
    prove_plan([rank(by_experts, [0, 4], 4)] * 2, by_experts, MOE)
    alone = rank(ParallelPlan(), [0, 8])
    prove_plan([alone, alone], ParallelPlan(dp=2), DENSE)
    prove_plan([alone], ParallelPlan(replicas=2), DENSE)


@pytest.mark.parametrize(
    ("text", "shape", "told", "said"),
    [
        ("pp2", DENSE, [("pp2", [0, 5], None), ("pp2", [5, 8], None)], r"layers \[0, 5\] on rank 0"),
        ("tp2ep", MOE, [("tp2ep", [0, 4], 8)] * 2, "8 experts on rank 0"),
        ("tp1dp2", DENSE, [("tp1", [0, 8], None)], "1 ranks"),
        ("tp2", DENSE, [("pp2", [0, 4], None), ("pp2", [4, 8], None)], "'pp': 2"),
        ("tp2ep", MOE, [("tp2", [0, 4], 8)] * 2, "'ep': False"),
    ],
)
def test_ranks_that_do_not_are_not(
    text: str, shape: ModelShape, told: list[tuple[str, list[int], int | None]], said: str
) -> None:
    described = [rank(ParallelPlan.parse(own), layers, experts) for own, layers, experts in told]
    with pytest.raises(EngineError, match=rf"the engine runs .*{said}.* where {text} was asked for"):
        prove_plan(described, ParallelPlan.parse(text), shape)
