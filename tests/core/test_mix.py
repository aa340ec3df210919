"""A class of requests has the same times and prompts alone and beside others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.core.mix import MixedWorkload, RequestClass, only

SHORT = RequestClass("short", 40, 8, 4)
LONG = RequestClass("long", 3, 100, 2, burstiness=None, priority=1)
MIX = MixedWorkload((SHORT, LONG), seconds=20.0)
VOCAB = 10_240


def test_every_request_is_of_its_class() -> None:
    requests = MIX.generate(VOCAB)
    assert len(requests) == MIX.requests == 43
    assert [request.index for request in requests] == list(range(43))
    for one in MIX.classes:
        own = only(requests, one.name)
        assert len(own) == one.requests
        assert {(len(request.prompt), request.output_tokens, request.priority) for request in own} == {
            (one.input_tokens, one.output_tokens, one.priority)
        }
    assert all(1_000 <= token < VOCAB for request in requests for token in request.prompt if isinstance(token, int))


def test_they_come_in_order_and_within_the_time() -> None:
    times = [request.at_s for request in MIX.generate(VOCAB)]
    assert all(time is not None and 0 < time < MIX.seconds for time in times)
    assert times == sorted(times, key=lambda time: time or 0.0)


def test_even_gaps_are_even_and_do_not_depend_on_the_seed() -> None:
    for seed in (0, 1, 99):
        times = [request.at_s for request in only(MIX.reseeded(seed).generate(VOCAB), "long")]
        assert times == pytest.approx([5.0, 10.0, 15.0])


def test_one_class_alone_is_what_it_is_among_others() -> None:
    together = only(MIX.generate(VOCAB), "short")
    alone = replace(MIX, classes=(SHORT,)).generate(VOCAB)
    assert [(r.at_s, r.prompt, r.output_tokens) for r in together] == [
        (r.at_s, r.prompt, r.output_tokens) for r in alone
    ]
    more = replace(MIX, classes=(SHORT, replace(LONG, requests=7, input_tokens=5))).generate(VOCAB)
    assert [(r.at_s, r.prompt) for r in only(more, "short")] == [(r.at_s, r.prompt) for r in together]


def test_the_seed_decides_and_reseeding_changes_everything() -> None:
    assert MIX.generate(VOCAB) == MIX.generate(VOCAB)
    other = MIX.reseeded(1)
    assert (other.seed, other.classes) == (1, MIX.classes)
    first, second = only(MIX.generate(VOCAB), "short"), only(other.generate(VOCAB), "short")
    assert not {r.prompt for r in first} & {r.prompt for r in second}
    assert not {r.at_s for r in first} & {r.at_s for r in second}


def test_poisson_arrivals_are_anywhere_in_the_time() -> None:
    """Given their number they are uniform over the time: mean 1/2 and variance 1/12 of it, over many seeds."""
    many = MixedWorkload((RequestClass("short", 20, 1, 1),), seconds=1.0)
    times = np.asarray([r.at_s for seed in range(200) for r in many.reseeded(seed).generate(VOCAB)], dtype=float)
    assert times.mean() == pytest.approx(0.5, abs=0.02)
    assert times.var() == pytest.approx(1 / 12, abs=0.006)


def test_two_classes_do_not_share_their_random_numbers() -> None:
    twins = MixedWorkload((RequestClass("a", 10, 8, 4), RequestClass("b", 10, 8, 4)), 10.0).generate(VOCAB)
    assert not {r.prompt for r in only(twins, "a")} & {r.prompt for r in only(twins, "b")}
    assert not {r.at_s for r in only(twins, "a")} & {r.at_s for r in only(twins, "b")}


def test_means_are_weighted_by_requests() -> None:
    assert MIX.input_tokens == round((40 * 8 + 3 * 100) / 43)
    assert MIX.output_tokens == round((40 * 4 + 3 * 2) / 43)
    assert MIX.context_tokens == 102


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"requests": 0}, "requests of class short must be 1 or more, not 0"),
        ({"input_tokens": -1}, "input_tokens of class short"),
        ({"output_tokens": 0}, "output_tokens of class short"),
        ({"name": ""}, "needs a name"),
    ],
)
def test_a_class_that_cannot_be(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SHORT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_cannot_be(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be positive and finite"):
        MixedWorkload((SHORT,), seconds)


def test_mixes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="needs a class"):
        MixedWorkload((), 1.0)
    with pytest.raises(ValueError, match="names of their own"):
        MixedWorkload((SHORT, SHORT), 1.0)
    with pytest.raises(ValueError, match="vocabulary of 10 is too small"):
        MIX.generate(10)
    with pytest.raises(ValueError, match="no request is of class middling"):
        only(MIX.generate(VOCAB), "middling")
