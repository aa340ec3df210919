"""Tensor parallelism by hand: split two matrix products over two ranks, and count what has to be sent.

Fill in the six functions below. Nothing is simulated: each of two processes calls them with its own `link`, and
`link.all_reduce` is torch.distributed's, over gloo on this CPU. Check yourself at any time:

    python -m pytest week5/exercises

A worked answer is in week5/exercises/answers/tp_by_hand_answer.py. It teaches most after you have tried.

Shapes: x is (tokens, inputs), a weight is (inputs, outputs), and a layer is x @ weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from two_ranks import Link


def columns_of(weight: Tensor, link: Link) -> Tensor:
    """This rank's share of a column-parallel weight: (inputs, outputs / ranks), rank 0 the first columns.

    `link.rank` is 0 or 1, `link.ranks` is 2.
    """
    raise NotImplementedError("columns_of: which columns of the weight are this rank's?")


def column_parallel(x: Tensor, my_columns: Tensor, link: Link) -> Tensor:
    """This rank's columns of x @ weight, from the whole x. What must be sent for it?"""
    raise NotImplementedError("column_parallel: multiply; then ask what the other rank's columns have to do with yours")


def rows_of(weight: Tensor, link: Link) -> Tensor:
    """This rank's share of a row-parallel weight: (inputs / ranks, outputs), rank 0 the first rows."""
    raise NotImplementedError("rows_of: which rows of the weight are this rank's?")


def row_parallel(my_x: Tensor, my_rows: Tensor, link: Link) -> Tensor:
    """The whole x @ weight on every rank, where a rank has only its columns of x and its rows of the weight.

    `link.all_reduce(tensor)` returns the sum of both ranks' tensors, and both must call it.
    """
    raise NotImplementedError("row_parallel: each rank can compute a part of every element; what makes it whole?")


def mlp(x: Tensor, up: Tensor, down: Tensor, link: Link) -> Tensor:
    """relu(x @ up) @ down on every rank, split over both, with one all-reduce.

    `up` is (inputs, hidden), `down` is (hidden, inputs), both whole: take this rank's part of each. Which of the two
    products is split by columns, and which by rows, so that nothing has to be sent between them?
    """
    raise NotImplementedError("mlp: the first product leaves on each rank just what the second one needs")


def all_reduces_per_forward(layers: int) -> int:
    """All-reduces in one forward pass of a transformer with so many layers under tensor parallelism.

    A layer is an attention block and an MLP, and each is split as `mlp` is: heads, like hidden units, belong to a rank.
    The embedding table is split by words: a rank knows some rows, for the others it has zeros, and one all-reduce adds
    them up.
    """
    raise NotImplementedError("all_reduces_per_forward: count them: blocks in a layer, layers, and the embedding")
