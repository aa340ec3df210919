"""Tensor parallelism by hand: a worked answer to week5/exercises/tp_by_hand.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from two_ranks import Link


def columns_of(weight: Tensor, link: Link) -> Tensor:
    """Each rank takes a block of output features."""
    return weight.chunk(link.ranks, dim=1)[link.rank]


def column_parallel(x: Tensor, my_columns: Tensor, link: Link) -> Tensor:
    """A column of the product needs the whole x and one column of the weight: nothing is sent."""
    return x @ my_columns


def rows_of(weight: Tensor, link: Link) -> Tensor:
    """Each rank takes a block of input features."""
    return weight.chunk(link.ranks, dim=0)[link.rank]


def row_parallel(my_x: Tensor, my_rows: Tensor, link: Link) -> Tensor:
    """A sum over input features falls into one sum per rank; adding these up is the all-reduce."""
    return link.all_reduce(my_x @ my_rows)


def mlp(x: Tensor, up: Tensor, down: Tensor, link: Link) -> Tensor:
    """Columns first: relu acts on each hidden unit alone, so a rank goes on with its own units and needs no others.

    The other way round the first product would be a partial sum, and relu of a sum is not the sum of relus: it would
    take an all-reduce before relu as well.
    """
    my_hidden = column_parallel(x, columns_of(up, link), link).relu()
    return row_parallel(my_hidden, rows_of(down, link), link)


def all_reduces_per_forward(layers: int) -> int:
    """One after attention and one after the MLP of every layer, and one for the embedding."""
    return 2 * layers + 1
