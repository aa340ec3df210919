"""Every kind of plan on real vLLM: it starts, its ranks hold what the layout says, and it writes the same text."""

from __future__ import annotations

import pytest

from common.core.layout import layout
from common.core.model_shape import ModelShape
from common.core.weight_split import plan_parameters
from common.core.workload import Workload
from common.engines.engine import Engine
from common.engines.models import find_model
from tests.engines.test_vllm_engine import greedy_tokens
from tests.shared_engines import SharedEngines

pytestmark = pytest.mark.vllm

DENSE, MOE = "qwen2-9m", "qwen3-moe-16m"
SHAPES = {name: find_model(name, say=lambda _: None).shape for name in (DENSE, MOE)}
KV_TIMES = {"tp2": 2.0, "tp4": 4.0, "tp1dp2": 2.0, "pp5+3": 8 / 5}  # of one device's KV cache
PROMPTS = [
    [int(token) for token in request.prompt]
    for request in Workload(4, 32, 24, SHAPES[DENSE].vocab_size, seed=7).generate()
]


def assert_laid_out(engine: Engine, shape: ModelShape) -> None:
    """Layers, experts and weight bytes, as the ranks themselves tell them."""
    shares = layout(engine.plan, shape)
    assert engine.facts.layers_per_rank == [(share.layers.start, share.layers.stop) for share in shares]
    assert engine.facts.experts_per_rank == [len(share.experts) for share in shares if share.experts]
    expected = [4 * parameters for parameters in plan_parameters(shape, engine.plan)]
    assert engine.facts.weight_bytes_per_rank == pytest.approx(expected, rel=0.005)
    assert len(engine.facts.memory_bytes_per_rank) == engine.plan.devices


def told(engines: SharedEngines, model: str) -> list[list[int]]:
    """What one device writes."""
    alone = greedy_tokens(engines.of("tp1", model), PROMPTS)
    assert all(len(set(answer)) > 4 for answer in alone), "a model that repeats one token would prove nothing"
    return alone


def kv_tokens(engine: Engine) -> int:
    assert engine.facts.kv_cache_tokens is not None
    return engine.facts.kv_cache_tokens


@pytest.mark.parametrize(("split", "kv_times"), list(KV_TIMES.items()))
def test_a_plan_writes_what_one_device_writes(engines: SharedEngines, split: str, kv_times: float) -> None:
    """And has a KV cache of 1 GiB on each device: of all layers, of a part of each, or of 5 of the 8."""
    engine = engines.of(split)
    expected = told(engines, DENSE)
    assert greedy_tokens(engine, PROMPTS) == expected
    if engine.plan.dp > 1:
        assert greedy_tokens(engine, PROMPTS) == expected, "either engine takes its turn"
    assert_laid_out(engine, SHAPES[DENSE])
    assert kv_tokens(engine) == pytest.approx(kv_times * kv_tokens(engines.of("tp1")), rel=0.01)


def test_experts_on_different_devices_write_the_same(engines: SharedEngines) -> None:
    expected = told(engines, MOE)
    assert_laid_out(engines.of("tp1", MOE), SHAPES[MOE])
    split = engines.of("tp2ep", MOE)
    assert greedy_tokens(split, PROMPTS) == expected
    assert_laid_out(split, SHAPES[MOE])


def test_replicas_write_the_same(engines: SharedEngines) -> None:
    engine = engines.of("tp1x2")
    for replica in range(2):
        assert greedy_tokens(engine, PROMPTS, replica) == told(engines, DENSE)
    assert_laid_out(engine, SHAPES[DENSE])
