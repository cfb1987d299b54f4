"""Estimating whole batches of candidates of a space: sparse block counts times what each block costs.

Each distinct block is built and split into workloads once; after that 100,000 candidates a second are a matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwnas.core.interfaces import BatchSpace, Toolchain
from hwnas.core.workload import Block, BlockCounts, Candidate, Workload
from hwnas.errors import ConfigError
from hwnas.graph.analysis import analyse
from hwnas.graph.fusion import split
from hwnas.graph.precision import Precision, cast_block
from hwnas.predictors.network import COLUMNS, NetworkPredictor

PARAMS, MACS, FLASH, RAM = range(COLUMNS, COLUMNS + 4)


class SpaceEstimator:
    """Estimates params, macs, flash and ram of a space's candidates, and the predictor's metric where there is one.

    The toolchain says which operators fuse and what a block takes in flash; the sum over blocks comes within a few
    percent of the whole network's file. Where the predictor knows the memory of kernels, flash and ram are those of the
    image on the device. Bounds hold with `confidence`; params and macs are exact.
    """

    def __init__(
        self,
        space: BatchSpace,
        toolchain: Toolchain,
        predictor: NetworkPredictor | None,
        confidence: float = 0.9,
        precision: Precision = "fp32",
    ) -> None:
        self._space, self._toolchain, self._predictor, self._confidence = space, toolchain, predictor, confidence
        self._precision: Precision = precision
        self._memory = None if predictor is None else predictor.memory
        self._rows: dict[str, np.ndarray] = {}
        self._parts: dict[str, Mapping[str, int]] = {}
        self._learned: dict[str, tuple[np.ndarray, float]] = {}
        self._base = None if predictor is None else predictor.calibration
        self.workloads: dict[str, Workload] = {}
        exact = ("flash", "ram", "params", "macs")
        self.metrics: tuple[str, ...] = exact if predictor is None else (predictor.metric, *exact)

    def workload_counts(self, candidate: Candidate) -> dict[str, int]:
        """The workloads of a candidate with their counts, from its blocks."""
        counts: dict[str, int] = {}
        for block in self._space.blocks(candidate):
            self._know([block])
            for part, n in self._parts[block.key].items():
                counts[part] = counts.get(part, 0) + n
        return counts

    def estimate(self, genotypes: np.ndarray) -> Mapping[str, np.ndarray]:
        """metric -> n x 2 (mean, high) in SI units, for n x g genotypes."""
        table, counts = self._table(genotypes)
        sums = np.asarray(counts.counts @ table[:, :RAM])
        result = {
            "params": _exact(sums[:, PARAMS]),
            "macs": _exact(sums[:, MACS]),
            "flash": _exact(sums[:, FLASH]),
            "ram": _exact(_largest(counts, table[:, RAM])),
        }
        if self._predictor is not None:
            bounds = self._predictor.predict_columns(sums[:, :COLUMNS], self._confidence)
            result[self._predictor.metric] = bounds[:, [0, 2]]
        return {**result, **self._on_device(counts, table)}

    def bounds(self, genotypes: np.ndarray) -> np.ndarray:
        """mean, low and high of the predictor's metric of n x g genotypes, n x 3. Raises ConfigError without one."""
        if self._predictor is None:
            raise ConfigError("latency needs a predictor; fit one to a latency table first")
        table, counts = self._table(genotypes)
        return self._predictor.predict_columns(np.asarray(counts.counts @ table[:, :COLUMNS]), self._confidence)

    def learn(self, candidate: Candidate, measured: Mapping[str, float]) -> None:
        """Take in what a whole candidate was measured at: the correction is fitted anew, to all known networks."""
        if self._predictor is None or self._base is None or self._predictor.metric not in measured:
            return
        table, counts = self._table(np.array([candidate.genotype]))
        value = float(measured[self._predictor.metric])
        self._learned[candidate.id] = (np.asarray(counts.counts @ table[:, :COLUMNS])[0], value)
        base, values = self._base
        columns = np.vstack([base, *(c[None] for c, _ in self._learned.values())])
        self._predictor.fit(columns, [*values, *(v for _, v in self._learned.values())])

    def know(self, blocks: Sequence[Block]) -> None:
        """Split blocks into workloads ahead of time; `workloads` then holds them."""
        self._know(blocks)

    def _on_device(self, counts: BlockCounts, table: np.ndarray) -> dict[str, np.ndarray]:
        """Flash and ram of the image, n x 2 each, where the memory of kernels is known: code counts once a kernel."""
        memory = self._memory
        if memory is None:
            return {}
        import scipy.sparse

        ids = sorted({part for block in counts.blocks for part in self._parts[block.key]})
        index = {part: i for i, part in enumerate(ids)}
        cells = [(b, index[p], n) for b, block in enumerate(counts.blocks) for p, n in self._parts[block.key].items()]
        rows, columns, numbers = zip(*cells)
        kernels = counts.counts @ scipy.sparse.csr_matrix((numbers, (rows, columns)), (len(counts.blocks), len(ids)))
        costs = memory.rows([self.workloads[i] for i in ids])
        distinct = kernels.copy()
        distinct.data[:] = 1
        once, each = memory.own_flash[2] + costs[:, 0], memory.own_flash[1] + costs[:, 1]
        needs, sizes = memory.shared(ids)
        flash = memory.own_flash[0] + distinct @ once + kernels @ each + (distinct @ needs > 0) @ sizes
        workspace = _largest(BlockCounts((), kernels), costs[:, 2])
        ram = memory.ram_bytes + _largest(counts, table[:, RAM]) + workspace
        return {"flash": np.stack([flash, flash * (1 + memory.flash_error)], axis=1), "ram": _exact(ram)}

    def _table(self, genotypes: np.ndarray) -> tuple[np.ndarray, BlockCounts]:
        counts = self._space.block_counts(genotypes)
        self._know(counts.blocks)
        return np.array([self._rows[b.key] for b in counts.blocks]).reshape(-1, RAM + 1), counts

    def _know(self, blocks: Sequence[Block]) -> None:
        fresh = [b for b in blocks if b.key not in self._rows]
        if not fresh:
            return
        found: dict[str, Workload] = {}
        totals: list[tuple[int, int, int, int]] = []
        arena_bytes = getattr(self._toolchain, "arena_bytes", None)
        for block in fresh:
            network = cast_block(block, self._precision, self._space.input_shape, self._space.classes).build()
            parts = split(network, self._toolchain.rules)
            self._parts[block.key] = parts.parts
            found.update(parts.workloads)
            sums = analyse(network, self._toolchain.rules)
            ram = sums.peak_activation_bytes if arena_bytes is None else int(arena_bytes(network))
            totals.append((sums.params, sums.macs, self._toolchain.flash_bytes(network), ram))
        self.workloads.update(found)
        ids = list(found)
        rows = np.zeros((len(ids), COLUMNS))
        if self._predictor is not None:
            rows = self._predictor.rows([found[i] for i in ids])
        index = {workload: i for i, workload in enumerate(ids)}
        for block, total in zip(fresh, totals):
            row = np.zeros(RAM + 1)
            for part, n in self._parts[block.key].items():
                row[:COLUMNS] += n * rows[index[part]]
            row[PARAMS:] = total
            self._rows[block.key] = row


def _exact(values: np.ndarray) -> np.ndarray:
    return np.stack([values, values], axis=1)


def _largest(counts: BlockCounts, values: np.ndarray) -> np.ndarray:
    """The largest value among the blocks (or kernels) that each candidate has (n)."""
    matrix = counts.counts
    result = np.zeros(matrix.shape[0])
    filled = np.flatnonzero(np.diff(matrix.indptr) > 0)
    if filled.size:
        result[filled] = np.maximum.reduceat(values[matrix.indices], matrix.indptr[filled])
    return result
