"""NAS-Bench-201 cells as integers: operations on edges, text forms, live edges, and when two cells are the same.

Edges are (1,2) (1,3) (1,4) (2,3) (2,4) (3,4), operations 0 skip_connect, 1 none, 2 nor_conv_3x3, 3 nor_conv_1x1,
4 avg_pool_3x3 (Dong & Yang 2020). A cell's index is its six operations as digits to the base 5, the first edge first.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product

import numpy as np

from hwnas.errors import CandidateError

EDGES = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
SKIP, NONE, CONV3, CONV1, POOL = range(5)
CELLS: int = len(OPERATIONS) ** len(EDGES)
PATHS = ((2,), (0, 4), (1, 5), (0, 3, 5))
"""The edges (by position) of each way from node 1 to node 4."""

_INTO = ((0,), (1, 3), (2, 4, 5))  # the edges into nodes 2, 3 and 4, in the order of their sources
_TUPLE = re.compile(r"\(\s*([0-4])" + r"\s*,\s*([0-4])" * 5 + r"\s*,?\s*\)")
_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2| or (4, 0, 3, 1, 4, 3)"


def cell_index(genotypes: np.ndarray) -> np.ndarray:
    """The index of each cell, n integers below 15,625."""
    index: np.ndarray = genotypes @ (len(OPERATIONS) ** np.arange(len(EDGES) - 1, -1, -1))
    return index


@lru_cache(maxsize=1)
def all_cells() -> np.ndarray:
    """Every genotype in the order of its index, 15,625 x 6."""
    cells = np.array(list(product(range(len(OPERATIONS)), repeat=len(EDGES))), np.int64)
    cells.flags.writeable = False
    return cells


def live_edges(genotypes: np.ndarray) -> np.ndarray:
    """Which edges lie on a path from input to output without a `none`, n x 6 booleans."""
    live = np.zeros(genotypes.shape, bool)
    for path in PATHS:
        open_ = (genotypes[:, path] != NONE).all(1)
        live[:, path] |= open_[:, None]
    return live


def pruned(genotypes: np.ndarray) -> np.ndarray:
    """The genotypes with every edge that is not live set to `none`."""
    cells: np.ndarray = np.where(live_edges(genotypes), genotypes, NONE)
    return cells


def encode(genotype: tuple[int, ...]) -> str:
    """The text of NAS-Bench-201, |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, grouped by the node that edges lead to."""
    nodes = ("".join(f"|{OPERATIONS[genotype[e]]}~{EDGES[e][0] - 1}" for e in edges) for edges in _INTO)
    return "+".join(f"{node}|" for node in nodes)


def parse(text: str) -> tuple[int, ...]:
    """The genotype of either text form. Raises CandidateError that names what is wrong."""
    if not isinstance(text, str) or len(text) > 1000:
        raise CandidateError(f"{str(text)[:40]!r} is not a cell; write it like {_FORM}")
    if found := _TUPLE.fullmatch(text.strip()):
        return tuple(map(int, found.groups()))
    nodes = text.strip().split("+")
    if len(nodes) != len(_INTO) or not all(len(n) > 1 and n[0] == n[-1] == "|" for n in nodes):
        raise CandidateError(f"{text!r} is not a cell; write it like {_FORM}")
    genotype = [NONE] * len(EDGES)
    for number, (edges, node) in enumerate(zip(_INTO, nodes), 1):
        parts = node[1:-1].split("|")
        if len(parts) != len(edges):
            raise CandidateError(f"{text!r}: node {number} has {len(parts)} edges instead of {len(edges)}")
        for edge, part in zip(edges, parts):
            name, _, source = part.partition("~")
            due = str(EDGES[edge][0] - 1)
            if source != due:
                raise CandidateError(f"{text!r}: {part!r} should come from node {due}, as in op~{due}")
            if name not in OPERATIONS:
                raise CandidateError(f"{text!r}: no operation {name!r}", given=name, allowed=OPERATIONS)
            genotype[edge] = OPERATIONS.index(name)
    return tuple(genotype)


def unique_string(genotype: tuple[int, ...]) -> str:
    """What the cell computes, as text: equal for isomorphic cells.

    NAS-Bench-201's definition: a node is the sorted sum of what its edges bring, a skip brings its source itself, and
    `none`, as any edge out of a node that is exactly zero, brings zero (#). It tells 6,466 cells apart.
    """
    nodes = ["0"]
    for edges in _INTO:
        terms = []
        for edge in edges:
            source, operation = nodes[EDGES[edge][0] - 1], genotype[edge]
            if operation == NONE or source == "#":
                terms.append("#")
            elif operation == SKIP:
                terms.append(source)
            else:
                terms.append(f"({source})@{OPERATIONS[operation]}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


@lru_cache(maxsize=1)
def canonical_indices() -> np.ndarray:
    """For each cell index the smallest index of an isomorphic cell, 15,625 integers."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(unique_string(tuple(c)), i) for i, c in enumerate(all_cells().tolist())])
