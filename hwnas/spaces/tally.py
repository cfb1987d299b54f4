"""Counting blocks of many candidates at once: from a matrix of block numbers to sparse counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from hwnas.core.workload import Block, BlockCounts


def tally(columns: np.ndarray, blocks: Sequence[Block]) -> BlockCounts:
    """Block counts from block numbers.

    columns: n x s integers, the numbers in `blocks` of each candidate's blocks, -1 where a slot holds none. The
    result names only the blocks that occur, in the order of `blocks`.
    """
    present = columns >= 0
    numbers = columns[present]
    used = np.zeros(len(blocks), bool)
    used[numbers] = True
    place = np.cumsum(used) - 1
    starts = np.zeros(len(columns) + 1, np.int64)
    np.cumsum(present.sum(1), out=starts[1:])
    counts = scipy.sparse.csr_matrix(
        (np.ones(len(numbers)), place[numbers], starts), shape=(len(columns), int(used.sum()))
    )
    counts.sum_duplicates()
    return BlockCounts(tuple(blocks[i] for i in np.flatnonzero(used).tolist()), counts)
