from __future__ import annotations

import statistics
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.recording import RecordedRequest, Recording
from common.core.workload import FIRST_PLAIN_TOKEN_ID, Request

VOCAB = 10_240


def recording(entries: list[RecordedRequest], block_tokens: int = 512) -> Recording:
    return Recording("trace", "0" * 64, tuple(entries), VOCAB, block_tokens)


def texts(count: int) -> Recording:
    """Answers get longer and longer, as in a file that somebody has sorted."""
    return recording([RecordedRequest(8, 4 + place, f"prompt {place}") for place in range(count)])


def places(requests: list[Request]) -> list[int]:
    return [int(str(request.prompt).removeprefix("prompt ")) for request in requests]


# --- dealing


@settings(max_examples=60)
@given(have=st.integers(1, 200), asked=st.integers(1, 200), seed=st.integers(0, 10**6))
def test_what_is_asked_for_comes_in_the_order_of_the_file(have: int, asked: int, seed: int) -> None:
    requests = texts(have).generate(asked, seed)
    assert [request.index for request in requests] == list(range(asked))
    found = places(requests)
    if asked <= have:
        assert found == sorted(set(found)), "in order, none twice"
    else:
        assert max(Counter(found).values()) - min(Counter(found).values()) <= 1, "all are sent before one is sent again"
        assert set(found) == set(range(have))


@settings(max_examples=40)
@given(hands=st.integers(1, 6), asked=st.integers(1, 40), more=st.integers(0, 5), seed=st.integers(0, 10**6))
def test_seeds_in_a_row_share_no_prompt_while_the_file_lasts(hands: int, asked: int, more: int, seed: int) -> None:
    file = texts(hands * asked + min(more, asked - 1))
    dealt = [places(file.generate(asked, seed + step)) for step in range(hands)]
    assert len({place for hand in dealt for place in hand}) == hands * asked
    assert places(file.generate(asked, seed + hands)) == dealt[0], "then they come round again"


def test_every_seed_gets_nearly_the_same_lengths_even_of_a_sorted_file() -> None:
    file = texts(320)
    means = [statistics.mean(request.output_tokens for request in file.generate(32, seed)) for seed in range(10)]
    assert max(means) - min(means) < 0.03 * file.output_tokens


def test_the_same_seed_gives_the_same_requests() -> None:
    file = recording([RecordedRequest(20, 5), RecordedRequest(30, 6), RecordedRequest(40, 7)])
    assert file.generate(2, 5) == file.generate(2, 5)
    assert file.generate(3, 5) != file.generate(3, 6), "made-up prompts are others"


def test_all_of_it_is_the_file_itself_whatever_the_seed() -> None:
    file = recording([RecordedRequest(9 - place, 1 + place, at_s=place / 10) for place in range(8)])
    for seed in (0, 1, 999):
        sent = file.generate(8, seed)
        assert [len(request.prompt) for request in sent] == [9 - place for place in range(8)]
        assert [request.at_s for request in sent] == [place / 10 for place in range(8)]


# --- made-up prompts


def test_lengths_are_exact_and_ids_plain() -> None:
    file = recording([RecordedRequest(tokens, 3) for tokens in (1, 511, 512, 513, 2_000)])
    sent = file.generate(5, 0)
    assert [len(request.prompt) for request in sent] == [1, 511, 512, 513, 2_000]
    assert all(
        type(token) is int and FIRST_PLAIN_TOKEN_ID <= token < VOCAB
        for request in sent
        for token in request.prompt
        if not isinstance(token, str)
    )


def test_without_blocks_no_prompts_share_a_beginning() -> None:
    file = recording([RecordedRequest(64, 3)] * 4)
    beginnings = [request.prompt[:4] for seed in range(3) for request in file.generate(6, seed)]
    assert all(one != other for one, other in combinations(beginnings, 2)), "not even the same entry sent twice"


@pytest.mark.parametrize("block_tokens", [512, 16])
def test_equal_blocks_are_equal_tokens_in_one_repeat_and_others_in_the_next(block_tokens: int) -> None:
    size = block_tokens
    file = recording(
        [
            RecordedRequest(3 * size, 1, blocks=(0, 1, 2)),
            RecordedRequest(2 * size + 7, 1, blocks=(0, 1, 3)),
            RecordedRequest(3 * size, 1, blocks=(0, 4)),
        ],
        block_tokens,
    )
    first, second, third = (request.prompt for request in file.generate(3, 7))
    assert first[: 2 * size] == second[: 2 * size]
    assert first[2 * size :][:7] != second[2 * size :]
    assert len(second) == 2 * size + 7
    assert first[:size] == third[:size] and first[size : 2 * size] != third[size : 2 * size]
    assert len(third) == 3 * size, "what no block covers is the request's own"
    blocks = {first[at : at + size] for at in range(0, 3 * size, size)}
    assert len(blocks) == 3
    again = file.generate(3, 8)[0].prompt
    assert again[:size] != first[:size], "a repeat does not find its own prompts in a cache"


def test_warm_up_has_the_files_lengths_and_none_of_its_prompts() -> None:
    file = recording([RecordedRequest(5 + place, 40, f"secret {place}") for place in range(8)])
    warm = file.warm_up(8, 3, seed=1)
    assert sorted(len(request.prompt) for request in warm) == list(range(5, 13))
    assert all(isinstance(request.prompt, tuple) and request.output_tokens == 3 for request in warm)
    blocks = recording([RecordedRequest(512, 40, blocks=(0,))])
    assert blocks.warm_up(1, 3, 1)[0].prompt != blocks.generate(1, 1)[0].prompt


# --- what it says of itself


def test_means_span_and_description() -> None:
    file = recording([RecordedRequest(10, 3, at_s=0.5), RecordedRequest(21, 4, at_s=4.0)])
    assert (file.input_tokens, file.output_tokens, file.span_s) == (16, 4, 3.5)
    assert file.timed and not file.verbatim
    described = file.described(12)
    assert (described.requests, described.input_tokens, described.output_tokens) == (12, 16, 4)
    assert (described.form, described.sha256) == ("trace", "0" * 64)
    plain = texts(3)
    assert plain.verbatim and not plain.timed and plain.span_s == 0.0


def test_a_beginning_ends_at_either_limit_and_is_never_empty() -> None:
    file = recording([RecordedRequest(10, 3, at_s=10.0 * place) for place in range(10)])
    assert len(file.beginning(4, 1e9).entries) == 4
    assert len(file.beginning(100, 20.0).entries) == 3
    assert len(file.beginning(100, 19.99).entries) == 2
    assert len(file.beginning(100, 0.0).entries) == 1
    assert file.beginning(100, 1e9) == file


def test_prompts_are_not_shown() -> None:
    assert "secret" not in repr(recording([RecordedRequest(5, 4, "secret")]))


def test_nothing_is_no_recording_and_a_tiny_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a request"):
        recording([])
    with pytest.raises(ValueError, match="1000 is too small"):
        Recording("trace", "", (RecordedRequest(1, 1),), 1_000)
