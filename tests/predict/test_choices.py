from __future__ import annotations

import re
from dataclasses import replace

import pytest

from common.core.plan import ParallelPlan
from common.predict.choices import nothing_fits, plans_of
from common.predict.hardware import find
from common.predict.memory import fit
from common.predict.shapes import find_shape
from common.predict.wanted import Ask

DENSE, EXPERTS = find_shape("Llama-3.1-70B")[0], find_shape("Qwen3-30B-A3B")[0]
UNBOUNDED = replace(DENSE, max_position_embeddings=10**9)  # memory alone bounds its prompts


def named(count: int, least: int, experts: bool = False) -> list[str]:
    return [str(plan) for plan in plans_of(count, ParallelPlan(tp=least), EXPERTS if experts else DENSE)]


def test_plans_worth_predicting() -> None:
    assert named(1, 1) == ["tp1"]
    assert named(4, 2) == ["tp4", "pp4", "tp2x2"]
    assert named(4, 1, experts=True) == ["tp4", "pp4", "tp4ep", "tp1x4"]
    assert named(3, 2, experts=True) == ["tp3", "pp3"]


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    """70.6e9 weights of two bytes and 2.5 GB of runtime in 90 % of 79.6 GiB: 66.7 GB too much; half of them fit."""
    said = nothing_fits(Ask(DENSE, find("H100"), 2.0, 512, 128, 32), [ParallelPlan()])
    assert "tp1 is 66.7 GB short on each device; tp2 would hold it; fewer bytes per weight need less" in said
    largest = Ask(find_shape("Llama-3.1-405B")[0], find("T4"), 2.0, 512, 128, 32)
    said = nothing_fits(largest, [ParallelPlan(tp=8)])
    assert said.endswith(
        "no tensor-parallel plan up to 64 devices would hold it; fewer bytes per weight need less (--dtype)"
    )


def test_a_request_too_long_is_told_from_a_model_too_large() -> None:
    """80 layers, two of 8 KV heads of 128 a device: 82 kB a token, and 1,000,128 tokens are 82 GB."""
    ask = Ask(UNBOUNDED, find("H100"), 2.0, 1_000_000, 128, 32)
    said = nothing_fits(ask, [ParallelPlan(tp=4)])
    assert said.startswith("the model fits on H100-80GB-SXM, the KV cache of one request does not: 1000128 tokens")
    room = fit(DENSE, find("H100"), ParallelPlan(tp=4), 2.0).kv_tokens
    missing = (1_000_128 - room) * 2 * 80 * 2 * 128 * 2 / 1e9
    assert f"tp4 has room for {room}, {missing:.1f} GB short on each device; tp8 would hold it" in said
    assert f"on tp4, --input-tokens up to {room - 128} would fit" in said
    assert fit(DENSE, find("H100"), ParallelPlan(tp=8), 2.0).kv_tokens >= 1_000_128


def test_plans_that_do_not_divide_say_nothing_of_what_is_missing() -> None:
    """Of 64 heads tp48 deals out none; its memory would have held more tokens than were asked for."""
    plans = [ParallelPlan(tp=4), ParallelPlan(tp=48)]
    said = nothing_fits(Ask(DENSE, find("H100"), 2.0, 1_000_000, 128, 32), plans)
    assert "tp4 has room for" in said
    assert not re.search(r" -\d", said)
    alone = nothing_fits(Ask(DENSE, find("H100"), 2.0, 512, 128, 32), plans[1:])
    assert alone.startswith("no plan divides the model: tp48 does not divide this model (64 attention heads")
    assert "the nearest that do: tp32" in alone


def test_an_answer_that_alone_is_too_long() -> None:
    ask = Ask(UNBOUNDED, find("H100"), 2.0, 1, 10**9, 32)
    room = fit(DENSE, find("H100"), ParallelPlan(tp=4), 2.0).kv_tokens
    assert f"prompt and answer of {room} tokens together would fit" in nothing_fits(ask, [ParallelPlan(tp=4)])


@pytest.mark.parametrize(
    ("model", "context"),
    [("Qwen/Qwen3-32B", 40960), ("Qwen3-30B-A3B-FP8", 40960), ("Qwen3-4B-Instruct-2507", 131072), ("QwQ", 131072)],
)
def test_a_prompt_is_as_long_as_the_model_takes_where_memory_holds_more(model: str, context: int) -> None:
    ask = Ask(find_shape(model)[0], find("H100"), 2.0, 100_000_000, 128, 32)
    said = nothing_fits(ask, [ParallelPlan(tp=8)])
    assert said.endswith(f"up to {context - 128} would fit: the model's context is taken as {context} tokens")
