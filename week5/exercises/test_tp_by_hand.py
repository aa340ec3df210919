"""Your work in tp_by_hand.py, checked: python -m pytest week5/exercises

Two processes run every function, joined by gloo. A test that fails says what to think about. TP_BY_HAND=FILE checks
another file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from two_ranks import ExerciseError, TwoRanks, load_exercise  # noqa: E402

torch = pytest.importorskip("torch", reason="torch is missing: `make setup` installs it with the engine")
EXERCISE = Path(os.environ.get("TP_BY_HAND", HERE / "tp_by_hand.py")).resolve()
TOKENS, INPUTS, HIDDEN = 3, 4, 8


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[TwoRanks]:
    with TwoRanks(EXERCISE) as ranks:
        yield ranks


def matrix(rows: int, columns: int, seed: int) -> Any:  # noqa: ANN401  # a tensor; torch may be missing
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def on_both(two_ranks: TwoRanks, function: str, *arguments: list[Any]) -> list[tuple[Any, int]]:
    """Call a function on both ranks; what is not filled in fails with its hint alone."""
    try:
        return two_ranks.call(function, *arguments)
    except NotImplementedError as error:
        reason = f"not filled in yet. Hint: {error}"
    except ExerciseError as error:
        reason = str(error)
    pytest.fail(reason, pytrace=False)


def expect(right: bool, hint: str) -> None:
    if not right:
        pytest.fail(hint, pytrace=False)


def same(found: Any, expected: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(found, torch.Tensor)
        and found.shape == expected.shape
        and bool(torch.allclose(found, expected, atol=1e-5))
    )


def test_1_columns_of(two_ranks: TwoRanks) -> None:
    weight = matrix(INPUTS, HIDDEN, 1)
    parts = [value for value, _ in on_both(two_ranks, "columns_of", [weight, weight])]
    for rank, part in enumerate(parts):
        expected = weight[:, rank * HIDDEN // 2 : (rank + 1) * HIDDEN // 2]
        expect(same(part, expected), f"columns_of on rank {rank}: half of the columns, all rows, in order of the ranks")


def test_2_column_parallel(two_ranks: TwoRanks) -> None:
    x, weight = matrix(TOKENS, INPUTS, 2), matrix(INPUTS, HIDDEN, 3)
    halves = [weight[:, : HIDDEN // 2], weight[:, HIDDEN // 2 :]]
    answers = on_both(two_ranks, "column_parallel", [x, x], halves)
    for rank, (value, count) in enumerate(answers):
        expect(same(value, x @ halves[rank]), f"column_parallel on rank {rank}: this rank's columns of x @ weight")
        expect(count == 0, "column_parallel: nothing has to be sent, each rank has all it needs")


def test_3_rows_of(two_ranks: TwoRanks) -> None:
    weight = matrix(HIDDEN, INPUTS, 4)
    parts = [value for value, _ in on_both(two_ranks, "rows_of", [weight, weight])]
    for rank, part in enumerate(parts):
        expected = weight[rank * HIDDEN // 2 : (rank + 1) * HIDDEN // 2]
        expect(same(part, expected), f"rows_of on rank {rank}: half of the rows, all columns, in order of the ranks")


def test_4_row_parallel(two_ranks: TwoRanks) -> None:
    x, weight = matrix(TOKENS, HIDDEN, 5), matrix(HIDDEN, INPUTS, 6)
    my_x = [x[:, : HIDDEN // 2], x[:, HIDDEN // 2 :]]
    my_rows = [weight[: HIDDEN // 2], weight[HIDDEN // 2 :]]
    for rank, (value, count) in enumerate(on_both(two_ranks, "row_parallel", my_x, my_rows)):
        partial = same(value, my_x[rank] @ my_rows[rank])
        expect(not partial, "row_parallel: that is this rank's part of the sum; what of the other's?")
        expect(same(value, x @ weight), f"row_parallel on rank {rank}: the whole x @ weight")
        expect(count == 1, f"row_parallel: one all-reduce does it, {count} were made")


def test_5_mlp(two_ranks: TwoRanks) -> None:
    x, up, down = matrix(TOKENS, INPUTS, 7), matrix(INPUTS, HIDDEN, 8), matrix(HIDDEN, INPUTS, 9)
    expected = (x @ up).relu() @ down
    for rank, (value, count) in enumerate(on_both(two_ranks, "mlp", [x, x], [up, up], [down, down])):
        expect(value is not None, f"mlp on rank {rank} returned None: does it end in a return?")
        expect(same(value, expected), f"mlp on rank {rank}: not relu(x @ up) @ down; is relu where a sum is whole?")
        expect(count > 0, "mlp: right, but each rank did all the work: take this rank's part of each weight")
        expect(count == 1, f"mlp: {count} all-reduces; between columns and rows nothing has to be sent")


def test_6_counting() -> None:
    found, reason = [], ""
    try:
        found = [load_exercise(EXERCISE).all_reduces_per_forward(layers) for layers in (1, 8, 80)]
    except NotImplementedError as error:
        reason = f"not filled in yet. Hint: {error}"
    expect(not reason, reason)
    hint = "attention and MLP each end in one, and the embedding adds one to the whole pass"
    expect(found == [3, 17, 161], f"all_reduces_per_forward: {found} for 1, 8 and 80 layers; {hint}")
