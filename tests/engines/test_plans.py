"""Every kind of plan on real vLLM: it starts, its ranks hold what the layout says, and it writes the same text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.core.layout import layout
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.weight_split import plan_parameters
from common.core.workload import Workload
from common.engines.models import find_model
from common.engines.vllm_engine import VllmEngine
from tests.conftest import start
from tests.engines.test_vllm import greedy_tokens

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

DENSE, MOE = "qwen2-9m", "qwen3-moe-16m"
SHAPES = {name: find_model(name, say=lambda _: None).shape for name in (DENSE, MOE)}
PROMPTS = [
    [int(token) for token in request.prompt]
    for request in Workload(4, 32, 24, SHAPES[DENSE].vocab_size, seed=7).generate()
]


@contextmanager
def started(written: str, model: str, logs: Path) -> Iterator[VllmEngine]:
    engine = start(ParallelPlan.parse(written), model, logs, "float32")
    try:
        yield engine
    finally:
        assert engine.stop().clean


def assert_laid_out(engine: VllmEngine, shape: ModelShape) -> None:
    """Layers, experts and weight bytes, as the ranks themselves tell them."""
    shares = layout(engine.plan, shape)
    assert engine.facts.layers_per_rank == [(share.layers.start, share.layers.stop) for share in shares]
    assert engine.facts.experts_per_rank == [len(share.experts) for share in shares if share.experts]
    expected = [4 * parameters for parameters in plan_parameters(shape, engine.plan)]
    assert engine.facts.weight_bytes_per_rank == pytest.approx(expected, rel=0.005)
    assert len(engine.facts.memory_bytes_per_rank) == engine.plan.devices


@pytest.fixture(scope="module")
def told(tp1: VllmEngine, tp2: VllmEngine) -> list[list[int]]:
    """What one device writes, and two that split every layer."""
    alone = greedy_tokens(tp1, PROMPTS)
    assert all(len(set(answer)) > 4 for answer in alone), "a model that repeats one token would prove nothing"
    assert greedy_tokens(tp2, PROMPTS) == alone
    assert_laid_out(tp2, SHAPES[DENSE])
    return alone


def test_pipeline_stages_write_the_same(tp1: VllmEngine, told: list[list[int]], tmp_path: Path) -> None:
    with started("pp2", DENSE, tmp_path) as engine:
        assert greedy_tokens(engine, PROMPTS) == told
        assert_laid_out(engine, SHAPES[DENSE])
        kv_tokens = 2 * (tp1.facts.kv_cache_tokens or 0)
        assert engine.facts.kv_cache_tokens == pytest.approx(kv_tokens, rel=0.01), "half the layers on each device"


def test_data_parallel_engines_write_the_same(tp1: VllmEngine, told: list[list[int]], tmp_path: Path) -> None:
    with started("tp1dp2", DENSE, tmp_path) as engine:
        assert greedy_tokens(engine, PROMPTS) == told
        assert greedy_tokens(engine, PROMPTS) == told, "requests go to either engine in turn"
        assert_laid_out(engine, SHAPES[DENSE])
        assert engine.facts.kv_cache_tokens == pytest.approx(2 * (tp1.facts.kv_cache_tokens or 0), rel=0.01)


def test_replicas_write_the_same(told: list[list[int]], tmp_path: Path) -> None:
    with started("tp1x2", DENSE, tmp_path) as engine:
        for replica in range(2):
            assert greedy_tokens(engine, PROMPTS, replica) == told
        assert_laid_out(engine, SHAPES[DENSE])


def test_experts_on_different_devices_write_the_same(tmp_path: Path) -> None:
    with started("tp1", MOE, tmp_path / "tp1") as engine:
        told = greedy_tokens(engine, PROMPTS)
        assert all(len(set(answer)) > 4 for answer in told)
        assert_laid_out(engine, SHAPES[MOE])
    with started("tp2ep", MOE, tmp_path / "tp2ep") as engine:
        assert greedy_tokens(engine, PROMPTS) == told
        assert_laid_out(engine, SHAPES[MOE])
