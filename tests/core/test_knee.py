"""The knee of curves whose knee is known by arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from common.core.knee import LoadPoint, knee, saturation

DOUBLINGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def points(
    loads: Sequence[float],
    throughput: Callable[[float], float],
    response_s: Callable[[float], float],
    noise: float = 0.001,
    repeats: int = 3,
) -> list[LoadPoint]:
    """A planted curve; every repeat's throughput is off by a share of about `noise`."""
    random = np.random.default_rng(1)
    made = []
    for load in loads:
        off = 1 + noise * random.standard_normal(repeats)
        made.append(LoadPoint(load, list(throughput(load) * off), list(response_s(load) / off)))
    return made


def closed(ideal_s: float, bottleneck_s: float) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """n clients of a balanced closed network: X(n) = n / (D + (n - 1) d), R = n / X; power is largest at D/d - 1."""

    def rate(clients: float) -> float:
        return clients / (ideal_s + (clients - 1) * bottleneck_s)

    return rate, lambda clients: clients / rate(clients)


def test_of_m_m_1_it_is_half_the_capacity() -> None:
    """R = 1 / (mu - lambda), so power lambda (mu - lambda) is largest at mu / 2 (Kleinrock)."""
    loads = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    found = knee(points(loads, lambda rate: rate, lambda rate: 1 / (10 - rate)))
    assert found is not None and found.resolved
    assert found.load == 5.0 and found.between == (5.0, 5.0)


@pytest.mark.parametrize("at", [4, 16, 64])
def test_of_a_saturating_closed_loop_it_is_where_the_bottleneck_fills(at: int) -> None:
    curve = points(DOUBLINGS, *closed(ideal_s=1.0, bottleneck_s=1 / (at + 1)))
    found = knee(curve)
    assert found is not None and found.resolved and found.load == at


def test_neighbours_that_overlap_leave_it_unresolved() -> None:
    curve = points(DOUBLINGS, *closed(1.0, 1 / 17), noise=0.2)
    found = knee(curve)
    assert found is not None and not found.resolved
    assert found.between[0] <= 16 <= found.between[1] and found.between[0] < found.between[1]
    assert "overlap" in found.why_not


def test_one_repeat_has_no_interval() -> None:
    found = knee(points(DOUBLINGS, *closed(1.0, 1 / 17), repeats=1))
    assert found is not None and found.load == 16 and not found.resolved and "one repeat" in found.why_not


@pytest.mark.parametrize(("at", "edge"), [(1_000, "highest"), (1, "lowest")])
def test_the_edge_of_what_was_tried_is_no_knee(at: int, edge: str) -> None:
    found = knee(points((4, 8, 16), *closed(1.0, 1 / (at + 1))))
    assert found is not None and not found.resolved and edge in found.why_not


def test_two_points_have_no_middle() -> None:
    assert knee(points((1, 2), *closed(1.0, 0.1))) is None
    assert knee([]) is None


def test_saturation_is_the_first_load_whose_doubling_gains_too_little() -> None:
    curve = closed(1.0, 0.1)  # X = n / (0.9 + 0.1 n): doubling n = 16 gains 22 %, 128 3.4 %, 256 1.7 %
    assert saturation(points(DOUBLINGS, *curve)).load is None
    found = saturation(points((*DOUBLINGS, 512), *curve))
    assert found.load == 256 and found.resolved and found.gain == pytest.approx(0.0173, abs=0.002)


def test_steps_of_other_sizes_are_brought_to_a_doubling() -> None:
    """From 1 to 4 a gain of 1.05 is 2.5 % per doubling."""
    curve = [LoadPoint(1, [100.0, 100.1], [1, 1]), LoadPoint(4, [105.0, 105.1], [1, 1])]
    found = saturation(curve)
    assert found.load == 1 and found.gain == pytest.approx(1.05**0.5 - 1, abs=1e-3) and found.resolved


def test_noise_leaves_saturation_unresolved() -> None:
    curve = [LoadPoint(1, [90.0, 110.0], [1, 1]), LoadPoint(2, [92.0, 109.0], [1, 1])]
    found = saturation(curve)
    assert found.load == 1 and not found.resolved


@pytest.mark.parametrize("loads", [(1, 1, 2), (2, 1, 3), (0, 1, 2), (-1, 1, 2)])
def test_loads_that_do_not_ascend_are_refused(loads: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        knee(points(loads, lambda _: 1.0, lambda _: 1.0))


def test_points_need_pairs_of_positive_samples() -> None:
    with pytest.raises(ValueError, match="as many"):
        LoadPoint(1, [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="as many"):
        LoadPoint(1, [], [])
    with pytest.raises(ValueError, match="positive"):
        knee([LoadPoint(load, [0.0], [1.0]) for load in (1, 2, 3)])
