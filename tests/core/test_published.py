from __future__ import annotations

import pytest

from common.core.published import Published

MEASURED = Published("a GPU, a link", "a model", "an engine", "1 in, 1 out", "https://x", {4: 90.0, 1: 10.0, 2: 60.0})


def test_speed_up_is_over_the_smallest_plan_or_the_one_named() -> None:
    assert MEASURED.smallest == 1
    assert MEASURED.speedup(4) == pytest.approx(9)
    assert MEASURED.speedup(4, 2) == pytest.approx(1.5)
    with pytest.raises(KeyError):
        MEASURED.speedup(8)


@pytest.mark.parametrize(
    ("held", "base"),
    [({1: 15.9, 2: 16.0, 4: 99.0}, 2), ({1: 16.0, 2: 40.0}, 1), ({1: 3.0, 2: 4.0, 4: 5.0}, None), ({}, None)],
)
def test_a_base_holds_sixteen(held: dict[int, float], base: int | None) -> None:
    named = Published("m", "m", "e", "w", "s", MEASURED.rates, held)
    assert named.base == base
