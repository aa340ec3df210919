from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from common.core.pareto import pareto_front

NUMBERS = st.integers(0, 20).map(float)


def test_what_is_beaten_in_both_is_off() -> None:
    assert pareto_front([(1, 1), (2, 3), (3, 2), (2, 1), (4, 9)]) == [0, 1, 4]


def test_equal_points_are_kept_and_what_is_no_number_never() -> None:
    assert pareto_front([(1, 1), (1, 1)]) == [0, 1]
    assert pareto_front([(1, 1), (math.nan, 5), (0.5, math.nan)]) == [0]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
def test_everything_off_the_front_is_beaten_by_something_on_it(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert front == sorted(front, key=lambda place: points[place])
    for place, (cost, gain) in enumerate(points):
        beaten = any(
            points[other] != (cost, gain) and points[other][0] <= cost and points[other][1] >= gain for other in front
        )
        assert beaten == (place not in front)
