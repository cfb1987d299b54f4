"""What a compiler of integer networks makes of a cell, on cells that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.spaces.cell import CellSpace
from hwnas.spaces.cell_genes import CONV1, CONV3, POOL, all_cells, pruned
from hwnas.spaces.cell_operators import HAZARDS, OPERATORS
from hwnas.spaces.cell_program import plan

SPACE = CellSpace()
LETTERS = {"s": 0, "-": 1, "3": 2, "1": 3, "p": 4}


def row(cell: str) -> np.ndarray:
    return np.array([[LETTERS[letter] for letter in cell]])


@pytest.mark.parametrize(
    ("cell", "operators"),
    [
        ("--s---", (0, 0, 0, 0, 0, 0)),  # an identity
        ("--3---", (1, 0, 0, 0, 0, 0)),  # its ReLU fuses into what is before
        ("3-s-s-", (1, 0, 0, 1, 0, 1)),  # x + conv(relu(x)): others read x too, so the ReLU stands alone
        ("3-3-s-", (2, 0, 0, 1, 0, 2)),  # two convolutions of x, a ReLU each
        ("3-3-3-", (3, 0, 0, 1, 0, 2)),
        ("-p---p", (0, 0, 2, 0, 2, 0)),  # a pool of a pool
        ("ss--pp", (0, 0, 2, 1, 1, 0)),  # two pools of the same tensor: a skip is its source
        ("s-s-s-", (0, 0, 0, 1, 0, 0)),  # x + x
        ("333333", (6, 0, 0, 3, 0, 5)),  # only the last node but one has a reader of its own
        ("3-1--1", (0, 1, 0, 0, 0, 0)),  # what leads nowhere is gone
        ("-3----", (0, 0, 0, 0, 0, 0)),
    ],
)
def test_operators(cell: str, operators: tuple[int, ...]) -> None:
    assert tuple(SPACE.operators(row(cell))[0].astype(int)) == operators
    assert len(operators) == len(OPERATORS)


@pytest.mark.parametrize(
    ("cell", "hazards"),
    [
        ("333333", ()),
        ("--s---", ()),
        ("p---3-", ("relu_on_pool",)),
        ("p--33-", ("relu_on_pool", "zero_weights")),  # one of the two convolutions leads nowhere
        ("p--333", ()),  # two read the pool, so that the ReLU stands alone
        ("p---s-", ()),
        ("p-s-3-", ("relu_on_pool",)),
        ("3---p-", ("relu_on_pool",)),  # the next cell's ReLU meets this cell's pool
        ("3--sp-", ("relu_on_pool",)),
        ("3---p3", ("relu_on_pool", "fed_by_zero")),
        ("3-s-p-", ()),  # an addition lies between
        ("--s-3-", ("fed_by_zero",)),
        ("--s-s-", ()),  # a skip of zero is nothing
        ("3-s---", ("zero_weights",)),
        ("p-s---", ()),
        ("33s--3", ("zero_weights",)),
        ("33ss-3", ()),  # somebody else reads what is multiplied by zero
        ("------", ("zero_output",)),
        ("33----", ("zero_weights", "zero_output")),
    ],
)
def test_hazards(cell: str, hazards: tuple[str, ...]) -> None:
    found = SPACE.hazards(row(cell))[0]
    assert tuple(name for name, there in zip(HAZARDS, found) if there) == hazards


def test_counts_agree_with_the_network_that_is_built() -> None:
    cells = all_cells()[::7]
    counts, live = SPACE.operators(cells), pruned(cells)
    for column, operation in enumerate((CONV3, CONV1, POOL)):
        assert np.array_equal(counts[:, column], (live == operation).sum(1))
    pooled = [sum(step.kind == "pool" for step in plan(tuple(cell)).steps) for cell in live.tolist()]
    assert np.array_equal(counts[:, OPERATORS.index("pooled")], pooled)  # its plan computes no pool twice


def test_a_network_without_an_output_is_the_only_one_without_operators_and_with_that_hazard() -> None:
    cells = all_cells()
    zero = SPACE.hazards(cells)[:, HAZARDS.index("zero_output")] > 0
    assert np.array_equal(zero, (pruned(cells) == 1).all(1))
    assert zero.sum() == 341
