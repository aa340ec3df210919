"""What cannot be had better in one thing without having it worse in another."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (cost, gain) that no other beats: none costs at most as much and gains at least as much.

    Ordered by cost. Of equal points all are kept. Points that are not numbers are never on it.
    """
    real = [place for place, (cost, gain) in enumerate(points) if cost == cost and gain == gain]
    front = [place for place in real if not any(_beats(points[other], points[place]) for other in real)]
    return sorted(front, key=lambda place: points[place])


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]
