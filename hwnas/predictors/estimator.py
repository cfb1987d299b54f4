"""Estimating whole batches of candidates of a space: sparse block counts times what each block costs.

Each distinct block is built and split into workloads once; after that 100,000 candidates a second are a matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwnas.core.interfaces import BatchSpace, Toolchain
from hwnas.core.workload import Block, BlockCounts, Candidate, Workload
from hwnas.errors import ConfigError
from hwnas.graph.analysis import analyse
from hwnas.graph.fusion import split
from hwnas.graph.precision import Precision, cast_block
from hwnas.predictors.network import COLUMNS, NetworkPredictor

if TYPE_CHECKING:
    import scipy.sparse

PARAMS, MACS, FLASH, RAM = range(4)


class SpaceEstimator:
    """Estimates params, macs, flash and ram of a space's candidates, and the predictor's metric where there is one.

    The toolchain says which operators fuse and what a block takes in flash; the sum over blocks comes within a few
    percent of the whole network's file. Where the predictor knows the memory of kernels, flash is that of the image or
    library on the device, and ram that of the image, if there is one. Bounds hold with `confidence`; params and macs are
    exact.
    """

    def __init__(
        self,
        space: BatchSpace,
        toolchain: Toolchain,
        predictor: NetworkPredictor | None,
        confidence: float = 0.9,
        precision: Precision = "fp32",
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        self._space, self._toolchain, self._predictor, self._confidence = space, toolchain, predictor, confidence
        self._precision: Precision = precision
        self._memory = None if predictor is None else predictor.memory
        self._peak = None if predictor is None else predictor.peak
        self._predictors = {} if predictor is None else {predictor.metric: predictor, **predictor.beside}
        self._fixed = dict(fixed or {})
        self._exact: dict[str, np.ndarray] = {}
        self._rows: dict[str, dict[str, np.ndarray]] = {}
        self._parts: dict[str, Mapping[str, int]] = {}
        self._learned: dict[str, dict[str, tuple[np.ndarray, float]]] = {m: {} for m in self._predictors}
        self._base = {m: p.calibration for m, p in self._predictors.items()}
        self.workloads: dict[str, Workload] = {}
        derived = ("latency",) if predictor is not None and predictor.seconds_per is not None else ()
        sram = () if self._peak is None else ("sram",)
        self.metrics: tuple[str, ...] = (
            *self._predictors, *derived, "flash", "ram", *sram, "params", "macs", *self._fixed,
        )  # fmt: skip

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
        counts = self._counts(genotypes)
        exact = self._exact_rows(counts)
        sums = np.asarray(counts.counts @ exact)
        result = {metric: self._bounds(metric, counts)[:, [0, 2]] for metric in self._predictors}
        if self._predictor is not None and self._predictor.seconds_per is not None:
            result["latency"] = result[self._predictor.metric] * self._predictor.seconds_per
        result |= {
            "params": _exact(sums[:, PARAMS]),
            "macs": _exact(sums[:, MACS]),
            "flash": _exact(sums[:, FLASH]),
            "ram": _exact(_largest(counts, exact[:, RAM])),
        }
        result |= {metric: _exact(np.full(len(sums), value)) for metric, value in self._fixed.items()}
        return {**result, **self._on_device(counts, exact)}

    def bounds(self, genotypes: np.ndarray) -> np.ndarray:
        """mean, low and high of the predictor's metric of n x g genotypes, n x 3. Raises ConfigError without one."""
        if self._predictor is None:
            raise ConfigError("latency needs a predictor; fit one to a latency table first")
        return self._bounds(self._predictor.metric, self._counts(genotypes))

    def learn(self, candidate: Candidate, measured: Mapping[str, float]) -> None:
        """Take in what a whole candidate was measured at: the correction is fitted anew, to all known networks."""
        for metric, predictor in self._predictors.items():
            if metric not in measured:
                continue
            counts = self._counts(np.array([candidate.genotype]))
            row = np.asarray(counts.counts @ self._columns(metric, counts))[0]
            self._learned[metric][candidate.id] = (row, float(measured[metric]))
            base, values = self._base[metric]
            columns = np.vstack([base, *(c[None] for c, _ in self._learned[metric].values())])
            predictor.fit(columns, [*values, *(v for _, v in self._learned[metric].values())])

    def know(self, blocks: Sequence[Block]) -> None:
        """Split blocks into workloads ahead of time; `workloads` then holds them."""
        self._know(blocks)

    def _bounds(self, metric: str, counts: BlockCounts) -> np.ndarray:
        """mean, low and high of a predictor's metric, n x 3."""
        columns = np.asarray(counts.counts @ self._columns(metric, counts))
        return self._predictors[metric].predict_columns(columns, self._confidence)

    def _on_device(self, counts: BlockCounts, exact: np.ndarray) -> dict[str, np.ndarray]:
        """Flash and ram of the image and sram, n x 2 each, where the memory of kernels is known: code counts once."""
        memory, peak = self._memory, self._peak
        if memory is None and peak is None:
            return {}
        import scipy.sparse

        found: dict[str, np.ndarray] = {}
        ids = sorted({part for block in counts.blocks for part in self._parts[block.key]})
        index = {part: i for i, part in enumerate(ids)}
        cells = [(b, index[p], n) for b, block in enumerate(counts.blocks) for p, n in self._parts[block.key].items()]
        rows, columns, numbers = zip(*cells)
        kernels = counts.counts @ scipy.sparse.csr_matrix((numbers, (rows, columns)), (len(counts.blocks), len(ids)))
        if peak is not None:
            found["sram"] = peak.predict(*_two_largest(kernels, peak.rows([self.workloads[i] for i in ids])))
        if memory is None:
            return found
        costs = memory.rows([self.workloads[i] for i in ids])
        distinct = kernels.copy()
        distinct.data[:] = 1
        once, each = memory.own_flash[2] + costs[:, 0], memory.own_flash[1] + costs[:, 1]
        needs, sizes = memory.shared(ids)
        flash = memory.own_flash[0] + distinct @ once + kernels @ each + (distinct @ needs > 0) @ sizes
        found["flash"] = np.stack([flash, flash * (1 + memory.flash_error)], axis=1)
        if memory.ram_bytes is not None:
            workspace = _largest(BlockCounts((), kernels), costs[:, 2])
            found["ram"] = _exact(memory.ram_bytes + _largest(counts, exact[:, RAM]) + workspace)
        return found

    def _counts(self, genotypes: np.ndarray) -> BlockCounts:
        counts = self._space.block_counts(genotypes)
        self._know(counts.blocks)
        return counts

    def _exact_rows(self, counts: BlockCounts) -> np.ndarray:
        """Params, MACs, flash and ram of each block, b x 4."""
        return np.array([self._exact[b.key] for b in counts.blocks]).reshape(-1, RAM + 1)

    def _columns(self, metric: str, counts: BlockCounts) -> np.ndarray:
        """What each block adds to a network's columns of a predictor, b x COLUMNS."""
        return np.array([self._rows[b.key][metric] for b in counts.blocks]).reshape(-1, COLUMNS)

    def _know(self, blocks: Sequence[Block]) -> None:
        fresh = [b for b in blocks if b.key not in self._exact]
        if not fresh:
            return
        found: dict[str, Workload] = {}
        arena_bytes = getattr(self._toolchain, "arena_bytes", None)
        for block in fresh:
            network = cast_block(block, self._precision, self._space.input_shape, self._space.classes).build()
            parts = split(network, self._toolchain.rules)
            self._parts[block.key] = parts.parts
            found.update(parts.workloads)
            sums = analyse(network, self._toolchain.rules)
            ram = sums.peak_activation_bytes if arena_bytes is None else int(arena_bytes(network))
            exact = (sums.params, sums.macs, self._toolchain.flash_bytes(network), ram)
            self._exact[block.key] = np.array(exact, dtype=float)
        self.workloads.update(found)
        rows = {m: dict(zip(found, p.rows(list(found.values())))) for m, p in self._predictors.items()}
        for block in fresh:
            parts_of = self._parts[block.key].items()
            self._rows[block.key] = {
                metric: sum((n * of[part] for part, n in parts_of), np.zeros(COLUMNS)) for metric, of in rows.items()
            }


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


def _two_largest(kernels: scipy.sparse.csr_matrix, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest and second largest value among the distinct kernels of each of n candidates; 0 where there is none."""
    order = np.argsort(-values, kind="stable")
    ranked = kernels.tocsc()[:, order].tocsr()
    ranked.sort_indices()
    sizes = np.diff(ranked.indptr)
    padded = np.append(ranked.indices, [0, 0])  # a candidate with fewer kernels looks past its own, and is masked
    first, second = (np.where(sizes > k, values[order][padded[ranked.indptr[:-1] + k]], 0.0) for k in (0, 1))
    return first, second
