from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.workload import FIRST_PLAIN_TOKEN_ID, Workload
from common.engines.reference_models import REFERENCE_MODELS, SPECIAL_TOKENS, VOCAB_SIZE

WORK = Workload(requests=48, input_tokens=64, output_tokens=32, vocab_size=10_240, seed=3)


def test_the_same_seed_gives_the_same_requests_and_another_one_others() -> None:
    assert WORK.generate() == WORK.generate()
    other = WORK.reseeded(1)
    assert (other.requests, other.input_tokens, other.output_tokens) == (48, 64, 32)
    prompts = {request.prompt for request in WORK.generate()}
    assert prompts.isdisjoint(request.prompt for request in other.generate())


def test_a_known_workload_stays_what_it_was() -> None:
    """numpy promises a stable stream for a bit generator; if it breaks, results of two versions do not compare."""
    first = Workload(requests=2, input_tokens=4, output_tokens=1, vocab_size=10_240).generate()
    assert [request.prompt for request in first] == [(8859, 6885, 5722, 3492), (3844, 1378, 1695, 1152)]


@settings(max_examples=40)
@given(
    requests=st.integers(1, 64), input_tokens=st.integers(1, 64), vocab=st.integers(1_001, 200_000), seed=st.integers(0)
)
def test_sizes_and_ids_are_as_asked(requests: int, input_tokens: int, vocab: int, seed: int) -> None:
    generated = Workload(requests, input_tokens, 7, vocab, seed % 2**63).generate()
    assert [request.index for request in generated] == list(range(requests))
    for request in generated:
        assert len(request.prompt) == input_tokens
        assert request.output_tokens == 7
        assert all(type(token) is int for token in request.prompt), "JSON knows no numpy integers"
        assert all(FIRST_PLAIN_TOKEN_ID <= int(token) < vocab for token in request.prompt)


def test_no_two_prompts_share_a_cache_block() -> None:
    """vLLM caches whole blocks of 16 tokens; 128 on CPUs."""
    beginnings = [request.prompt[:16] for seed in range(4) for request in WORK.reseeded(seed).generate()]
    assert all(one[:4] != other[:4] for one, other in combinations(beginnings, 2))


def test_ids_reach_both_ends_of_the_vocabulary() -> None:
    ids = {token for request in Workload(64, 512, 1, 1_100).generate() for token in request.prompt}
    assert ids == set(range(1_000, 1_100))


def test_prompts_hold_no_special_token_and_no_bare_byte_of_the_reference_models() -> None:
    assert len(SPECIAL_TOKENS) + 256 <= FIRST_PLAIN_TOKEN_ID < VOCAB_SIZE
    assert {model.config()["vocab_size"] for model in REFERENCE_MODELS.values()} == {VOCAB_SIZE}


@pytest.mark.parametrize("field", ["requests", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("size", [0, -1])
def test_sizes_below_one_are_refused(field: str, size: int) -> None:
    sizes = {"requests": 1, "input_tokens": 1, "output_tokens": 1, "vocab_size": 10_240, field: size}
    with pytest.raises(ValueError, match=f"{field} must be 1 or more, not {size}"):
        Workload(**sizes)


def test_a_vocabulary_without_plain_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 is too small"):
        Workload(1, 1, 1, FIRST_PLAIN_TOKEN_ID)
