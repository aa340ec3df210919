"""Greedy answers of two engines to the same prompts: the same tokens, or parting where rounding explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Likeliest = tuple[tuple[int, float], ...]  # (token id, natural log of its probability), the likeliest first


@dataclass(frozen=True)
class Answer:
    """One answer; `likeliest` has an entry per token, or none where log-probabilities were not asked for."""

    token_ids: tuple[int, ...]
    likeliest: tuple[Likeliest, ...] = ()


@dataclass(frozen=True)
class Likeness:
    """How alike two engines answered; log-probabilities are natural, so differences are in nats.

    After two answers part, each continues its own text, so nothing is compared beyond. `gap_nats`: where they part,
    how much likelier an engine found its own token than the other's, the larger of the two views, the largest over all
    prompts. `unlisted`: how often the other's token was not even among those that an engine listed. `noise_nats`: the
    largest difference in the log-probability of a token that both wrote.
    """

    prompts: int
    identical: int  # prompts
    tokens: int  # that both wrote alike
    distinct_tokens: int  # in the first engine's answers: of one that repeats a single token, likeness proves little
    first_divergence: int | None = None  # tokens that are alike before the earliest difference
    gap_nats: float | None = None
    unlisted: int = 0
    noise_nats: float | None = None


def compare(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Likeness:
    """Compare answers to the same prompts, in the same order.

    Raises:
        ValueError: no answers, or not the same number.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"answers to the same prompts are needed, not {len(ours)} and {len(theirs)}")
    places = [_parting(one, other) for one, other in zip(ours, theirs, strict=True)]
    parted = [(one, other, place) for one, other, place in zip(ours, theirs, places, strict=True) if place is not None]
    gaps = [_gap(one, other, place) for one, other, place in parted]
    alike = [len(one.token_ids) if place is None else place for one, place in zip(ours, places, strict=True)]
    noise = [
        difference
        for one, other, count in zip(ours, theirs, alike, strict=True)
        for difference in _noise(one, other, count)
    ]
    return Likeness(
        prompts=len(ours),
        identical=places.count(None),
        tokens=sum(alike),
        distinct_tokens=len({token for answer in ours for token in answer.token_ids}),
        first_divergence=min((place for _, _, place in parted), default=None),
        gap_nats=max((gap for gap in gaps if gap is not None), default=None),
        unlisted=gaps.count(None),
        noise_nats=max(noise, default=None),
    )


def _parting(one: Answer, other: Answer) -> int | None:
    """The first place where the tokens differ, or one answer has ended; None where they are identical."""
    if one.token_ids == other.token_ids:
        return None
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    shorter = min(len(one.token_ids), len(other.token_ids))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)


def _gap(one: Answer, other: Answer, place: int) -> float | None:
    """None where one of them did not list the other's token at that place."""
    if place >= min(len(one.likeliest), len(other.likeliest), len(one.token_ids), len(other.token_ids)):
        return None
    mine, yours = one.token_ids[place], other.token_ids[place]
    here, there = dict(one.likeliest[place]), dict(other.likeliest[place])
    if not {mine, yours} <= here.keys() & there.keys():
        return None
    return max(here[mine] - here[yours], there[yours] - there[mine])


def _noise(one: Answer, other: Answer, count: int) -> list[float]:
    differences = []
    for token, here, there in zip(one.token_ids[:count], one.likeliest, other.likeliest, strict=False):
        found, again = dict(here).get(token), dict(there).get(token)
        if found is not None and again is not None:
            differences.append(abs(found - again))
    return differences
