"""Block counts of cells, analysed once each and then looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import scipy.sparse

from hwnas.core.workload import Block, BlockCounts
from hwnas.spaces.cell_genes import CELLS, all_cells
from hwnas.spaces.cell_regions import Region


class CellTable:
    """The sparse table cells x regions, grown by the cells that are asked for."""

    def __init__(self, analyse: Callable[[tuple[int, ...]], Counter[Region]]) -> None:
        """`analyse` gives the regions of the network made of a cell."""
        self._analyse = analyse
        self._numbers: dict[Region, int] = {}
        self._blocks: list[Block] = []
        self._place = np.full(CELLS, -1, np.int64)
        self._table = scipy.sparse.csr_matrix((0, 0))

    def counts(self, cells: np.ndarray) -> BlockCounts:
        """Block counts of n cell indices. Columns are sorted by key, whatever was asked for before."""
        self._grow(np.unique(cells[self._place[cells] < 0]))
        rows = self._table[self._place[cells]]
        used = np.zeros(len(self._blocks), bool)
        used[rows.indices] = True
        columns = sorted(np.flatnonzero(used).tolist(), key=lambda number: self._blocks[number].key)
        rank = np.zeros(len(self._blocks), np.int64)
        rank[columns] = np.arange(len(columns))
        counts = scipy.sparse.csr_matrix((rows.data, rank[rows.indices], rows.indptr), (len(cells), len(columns)))
        counts.sort_indices()
        return BlockCounts(tuple(self._blocks[number] for number in columns), counts)

    def _grow(self, cells: np.ndarray) -> None:
        if not len(cells):
            return
        indices: list[int] = []
        values: list[int] = []
        starts = [0]
        for cell in all_cells()[cells].tolist():
            for region, count in self._analyse(tuple(cell)).items():
                indices.append(self._number(region))
                values.append(count)
            starts.append(len(indices))
        width = len(self._blocks)
        rows = scipy.sparse.csr_matrix((np.array(values, float), indices, starts), shape=(len(cells), width))
        self._table.resize(self._table.shape[0], width)
        self._place[cells] = self._table.shape[0] + np.arange(len(cells))
        self._table = scipy.sparse.vstack([self._table, rows], format="csr")

    def _number(self, region: Region) -> int:
        if region not in self._numbers:
            self._numbers[region] = len(self._blocks)
            self._blocks.append(Block(region.key, region.build))
        return self._numbers[region]
