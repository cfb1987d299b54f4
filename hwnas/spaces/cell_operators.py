"""What a compiler of integer networks makes of a cell: the operators that run, and what it may refuse.

It prunes what is not live, gives a skip its source's own tensor, and adds a node's inputs one after the other. A ReLU
before a convolution costs nothing where it can be fused into the only operator before it, and stands alone where
others read that tensor as well.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hwnas.spaces.cell_genes import CONV1, CONV3, EDGES, NONE, POOL, SKIP, all_cells, pruned

OPERATORS = ("conv3", "conv1", "pool", "add", "pooled", "relu")
"""Columns of `operator_table`: operators of a cell by kind; `pooled` are tensors that pools read (a second pool of the
same tensor may be cheaper), `relu` are ReLUs that no other operator can take in."""
HAZARDS = ("relu_on_pool", "fed_by_zero", "zero_weights", "zero_output")
"""Columns of `hazard_table`, each a reason why a network may not run on an integer accelerator.

relu_on_pool: a convolution is all that reads a pool, so that its ReLU fuses into a pool that takes no activation
("AveragePool2d: No fused activation function", operators that the Edge TPU supports, coral.ai/docs/edgetpu/models-intro).
fed_by_zero: an operator that counts reads a tensor of zeros, whose range makes a scale of zero.
zero_weights: a convolution is all that goes into a `none`, a multiplication by zero that fuses into its weights.
zero_output: nothing connects the output to the input.
"""

_INTO: dict[int, tuple[int, ...]] = {1: (), 2: (0,), 3: (1, 3), 4: (2, 4, 5)}
_OUT_OF: dict[int, tuple[int, ...]] = {1: (0, 1, 2), 2: (3, 4), 3: (5,), 4: ()}
_INPUT, _ADD = -1, -2
_CONVOLUTIONS = (CONV3, CONV1)


class _Tensor(NamedTuple):
    """A tensor of a live cell: what made it, and the operations that read it."""

    made_by: int
    read_by: list[int]


@lru_cache(maxsize=1)
def operator_table() -> np.ndarray:
    """Operators of every cell by index, 15,625 x len(OPERATORS)."""
    cells = pruned(all_cells())
    known: dict[tuple[int, ...], list[int]] = {}
    rows = []
    for cell in map(tuple, cells.tolist()):
        if cell not in known:
            known[cell] = _operators(cell)
        rows.append(known[cell])
    return _frozen(rows)


@lru_cache(maxsize=1)
def hazard_table() -> np.ndarray:
    """Which hazards every cell has, 15,625 x len(HAZARDS), 0 or 1."""
    cells = all_cells()
    live = map(tuple, pruned(cells).tolist())
    return _frozen([_hazards(tuple(cell), pruned_cell) for cell, pruned_cell in zip(cells.tolist(), live)])


def _frozen(rows: list[list[int]]) -> np.ndarray:
    table = np.array(rows, dtype=float)
    table.flags.writeable = False
    return table


def _tensors(cell: tuple[int, ...]) -> tuple[list[_Tensor], int | None]:
    """The tensors of a pruned cell in the order that they are made, the input first, and which one is its output."""
    tensors = [_Tensor(_INPUT, [])]
    at: dict[int, int | None] = {1: 0}
    for node in (2, 3, 4):
        total: int | None = None
        for edge in _INTO[node]:
            operation, source = cell[edge], at[EDGES[edge][0]]
            if operation == NONE:
                continue
            assert source is not None, "a live edge has a live source"
            term = source
            if operation != SKIP:
                tensors[source].read_by.append(operation)
                tensors.append(_Tensor(operation, []))
                term = len(tensors) - 1
            if total is not None:
                for addend in {total, term}:
                    tensors[addend].read_by.append(_ADD)
                tensors.append(_Tensor(_ADD, []))
                term = len(tensors) - 1
            total = term
        at[node] = total
    return tensors, at[4]


def _operators(cell: tuple[int, ...]) -> list[int]:
    tensors, _ = _tensors(cell)
    made = [tensor.made_by for tensor in tensors]
    shared = [tensor.read_by for tensor in tensors if len(tensor.read_by) > 1]
    return [
        made.count(CONV3),
        made.count(CONV1),
        made.count(POOL),
        made.count(_ADD),
        sum(POOL in tensor.read_by for tensor in tensors),
        sum(operation in _CONVOLUTIONS for readers in shared for operation in readers),
    ]


def _hazards(cell: tuple[int, ...], live: tuple[int, ...]) -> list[int]:
    zero = {1: False}
    for node in (2, 3, 4):
        zero[node] = all(cell[e] == NONE or zero[EDGES[e][0]] for e in _INTO[node])
    counts = {4: True}
    for node in (3, 2, 1):
        counts[node] = any(cell[e] != NONE and counts[EDGES[e][1]] for e in _OUT_OF[node])
    fed = any(cell[e] not in (NONE, SKIP) and zero[source] and counts[sink] for e, (source, sink) in enumerate(EDGES))
    scaled = any(
        not counts[node] and all(cell[e] == NONE for e in _OUT_OF[node]) and _sole(cell, node, zero, counts)
        for node in (2, 3)
    )
    return [int(_relu_on_pool(live)), int(fed), int(scaled), int(zero[4])]


def _relu_on_pool(live: tuple[int, ...]) -> bool:
    tensors, output = _tensors(live)
    first = tensors[0].read_by
    for number, (made_by, read_by) in enumerate(tensors):
        readers = first if number == output and not read_by else read_by  # what the next cell makes of it
        if made_by == POOL and len(readers) == 1 and readers[0] in _CONVOLUTIONS:
            return True
    return False


def _sole(cell: tuple[int, ...], node: int, zero: dict[int, bool], counts: dict[int, bool]) -> bool:
    """Whether one convolution, which nothing else reads, is all that a node sums up."""
    terms = [e for e in _INTO[node] if cell[e] in _CONVOLUTIONS or (cell[e] != NONE and not zero[EDGES[e][0]])]
    if len(terms) != 1:
        return False
    source = EDGES[terms[0]][0]
    if cell[terms[0]] == SKIP:
        return source != 1 and not counts[source] and _sole(cell, source, zero, counts)
    return cell[terms[0]] in _CONVOLUTIONS
