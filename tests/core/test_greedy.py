from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.greedy import Answer, Likeliest, Likeness, compare


def answer(*steps: Likeliest) -> Answer:
    """Greedy: the likeliest of each step."""
    return Answer(tuple(step[0][0] for step in steps), steps)


SURE = ((7, -0.1), (8, -3.0))
OTHER = ((9, -0.2), (3, -4.0))


def test_identical_answers_are_alike_and_their_noise_is_told() -> None:
    here = answer(SURE, OTHER)
    there = answer(((7, -0.1001), (8, -3.5)), ((9, -0.2), (4, -5.0)))
    found = compare([here], [there])
    assert found.noise_nats == pytest.approx(0.0001)
    assert replace(found, noise_nats=None) == Likeness(prompts=1, identical=1, tokens=2, distinct_tokens=2)


def test_a_planted_near_tie_is_found_with_its_gap() -> None:
    """The two engines part over tokens that both find nearly equally likely: 0.01 and 0.03 nats apart."""
    here = answer(SURE, ((5, -0.70), (6, -0.71)), OTHER)
    there = answer(SURE, ((6, -0.69), (5, -0.72)), SURE)
    found = compare([here, here], [here, there])
    assert (found.prompts, found.identical, found.tokens) == (2, 1, 3 + 1)
    assert found.first_divergence == 1
    assert found.gap_nats == pytest.approx(0.03)
    assert found.unlisted == 0


def test_the_earliest_parting_and_the_largest_gap_need_not_be_of_one_prompt() -> None:
    early = answer(((5, -0.70), (6, -0.71))), answer(((6, -0.70), (5, -0.71)))
    late = answer(SURE, ((1, -0.1), (2, -2.6))), answer(SURE, ((2, -0.2), (1, -2.0)))
    found = compare([early[0], late[0]], [early[1], late[1]])
    assert found.first_divergence == 0
    assert found.gap_nats == pytest.approx(2.5)


def test_nothing_is_compared_after_the_parting() -> None:
    """From there on each writes its own text: the same token at the same place means nothing."""
    here = answer(((5, -0.70), (6, -0.71)), ((1, -0.1),))
    there = answer(((6, -0.70), (5, -0.71)), ((1, -9.0),))
    assert compare([here], [there]).noise_nats is None


def test_a_token_that_the_other_never_thought_of_is_unlisted() -> None:
    found = compare([answer(SURE)], [answer(OTHER)])
    assert (found.unlisted, found.gap_nats, found.first_divergence) == (1, None, 0)


def test_without_log_probabilities_only_tokens_speak() -> None:
    found = compare([Answer((1, 2, 3))], [Answer((1, 2, 4))])
    assert (found.first_divergence, found.gap_nats, found.unlisted, found.noise_nats) == (2, None, 1, None)
    assert compare([Answer((1, 2))], [Answer((1, 2))]).identical == 1


def test_an_answer_that_ends_early_parts_there() -> None:
    found = compare([answer(SURE, OTHER)], [answer(SURE)])
    assert (found.identical, found.first_divergence, found.unlisted) == (0, 1, 1)


def test_one_token_repeated_is_told() -> None:
    assert compare([answer(SURE, SURE)], [answer(SURE, SURE)]).distinct_tokens == 1


@pytest.mark.parametrize("theirs", [[], [Answer((1,)), Answer((2,))]])
def test_other_prompts_are_refused(theirs: list[Answer]) -> None:
    with pytest.raises(ValueError, match="same prompts"):
        compare([Answer((1,))] if theirs else [], theirs)
