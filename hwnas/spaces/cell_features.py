"""Graph features of NAS-Bench-201 cells for accuracy predictors.

After the idea of GRAF (Kadlecova et al. 2024): operation counts, and for each set of operations the shortest and
longest path made of them alone, node degrees and the most of them on one path; beside one-hot codes of the cell as
written and with dead edges pruned.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np

from hwnas.spaces.cell_genes import EDGES, NONE, OPERATIONS, PATHS, all_cells, live_edges, pruned

_OUT_OF_INPUT, _INTO_OUTPUT = [0, 1, 2], [2, 4, 5]
_LONGEST = max(map(len, PATHS))
_SETS = [s for size in range(1, len(OPERATIONS)) for s in combinations(range(len(OPERATIONS)), size)]


@lru_cache(maxsize=1)
def feature_table() -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the features and their values for every cell by index, 15,625 x f."""
    cells = all_cells()
    named = {**_codes("", cells), **_codes("live.", pruned(cells)), **_paths(cells), **_sets(cells)}
    table = np.stack(list(named.values()), 1).astype(float)
    table.flags.writeable = False
    return tuple(named), table


def _codes(prefix: str, cells: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for e, (source, sink) in enumerate(EDGES):
        for o, name in enumerate(OPERATIONS):
            found[f"{prefix}edge{source}{sink}.{name}"] = cells[:, e] == o
    for o, name in enumerate(OPERATIONS):
        found[f"{prefix}count.{name}"] = (cells == o).sum(1)
    return found


def _paths(cells: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    live = live_edges(cells)
    for path in PATHS:
        label = "path" + "".join(str(EDGES[e][1]) for e in path)
        open_ = (cells[:, path] != NONE).all(1)
        found[f"{label}.open"] = open_
        for o, name in enumerate(OPERATIONS):
            if o != NONE:
                found[f"{label}.{name}"] = (cells[:, path] == o).sum(1) * open_
    into = [live[:, [e for e, (_, sink) in enumerate(EDGES) if sink == node]].sum(1) for node in (2, 3, 4)]
    for node, degree in zip((2, 3, 4), into):
        found[f"node{node}.live_inputs"] = degree
    found["adds"] = sum(np.maximum(degree - 1, 0) for degree in into)
    return found


def _sets(cells: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    open_ = np.stack([(cells[:, path] != NONE).all(1) for path in PATHS], 1)
    for operations in _SETS:
        label = "+".join(OPERATIONS[o] for o in operations)
        inside = np.isin(cells, operations)
        lengths = np.stack([np.where(inside[:, path].all(1), len(path), 0) for path in PATHS], 1)
        found[f"longest.{label}"] = lengths.max(1)
        found[f"shortest.{label}"] = np.where(lengths > 0, lengths, _LONGEST + 2).min(1)
        found[f"out_degree.{label}"] = inside[:, _OUT_OF_INPUT].sum(1)
        found[f"in_degree.{label}"] = inside[:, _INTO_OUTPUT].sum(1)
        if NONE not in operations:
            on_path = np.stack([inside[:, path].sum(1) for path in PATHS], 1)
            found[f"most.{label}"] = (on_path * open_).max(1)
    return found
