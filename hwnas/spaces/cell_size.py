"""Parameters, operations and MACs of cell networks in closed form, for any number of candidates at once."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np

from hwnas.spaces.cell_genes import CONV1, CONV3, POOL, live_edges
from hwnas.spaces.cell_program import Skeleton


def params(skeleton: Skeleton, genotypes: np.ndarray) -> np.ndarray:
    """Parameters as the benchmark counts them, dead edges included: n integers."""
    per = {op: sum(skeleton.cells * (k * c * c + 2 * c) for c in _channels(skeleton)) for op, k in _KERNELS}
    first, *_, last = channels = _channels(skeleton)
    fixed = 9 * skeleton.in_channels * first + 2 * first + 2 * last + (last + 1) * skeleton.classes
    for a, b in pairwise(channels):
        fixed += 9 * a * b + 9 * b * b + 4 * b + a * b
    return fixed + _weighted(genotypes, per)


def benchmark_flops(skeleton: Skeleton, genotypes: np.ndarray) -> np.ndarray:
    """Operations in NAS-Bench-201's convention, dead edges included: n integers.

    A multiply-accumulate counts once; ReLU adds 1 for an input element, batch norm 2 for an output element, a pool its
    window's size for an output element, where the global pool of n x n counts (n + 1)^2. None and skip are free.
    """
    stages = skeleton.stages
    per = {op: sum(skeleton.cells * prod(s) * (k * s[1] + 3) for s in stages) for op, k in _KERNELS}
    per[POOL] = sum(skeleton.cells * prod(s) * 9 for s in stages)
    fixed = prod(stages[0]) * (9 * skeleton.in_channels + 2)
    for a, b in pairwise(stages):
        fixed += prod(a) + prod(b) * (9 * a[1] + 2) + prod(b) * (9 * b[1] + 3)
        fixed += 4 * prod(b) // 2 + prod(b) * a[1]
    last = stages[-1]
    fixed += 3 * prod(last) + last[1] * (last[2] + 1) ** 2 + last[1] * skeleton.classes
    return fixed + _weighted(genotypes, per)


def macs(skeleton: Skeleton, genotypes: np.ndarray) -> np.ndarray:
    """Multiply-accumulates of the convolutions that run and of the classifier, for one input: n integers."""
    stages = skeleton.stages
    per = {op: sum(skeleton.cells * prod(s) * k * s[1] for s in stages) for op, k in _KERNELS}
    fixed = prod(stages[0]) * 9 * skeleton.in_channels + stages[-1][1] * skeleton.classes
    for a, b in pairwise(stages):
        fixed += prod(b) * (9 * a[1] + 9 * b[1] + a[1])
    return fixed + _weighted(np.where(live_edges(genotypes), genotypes, -1), per)


_KERNELS = ((CONV3, 9), (CONV1, 1))


def _channels(skeleton: Skeleton) -> list[int]:
    return [shape[1] for shape in skeleton.stages]


def _weighted(genotypes: np.ndarray, per: dict[int, int]) -> np.ndarray:
    total = np.zeros(len(genotypes), np.int64)
    for operation, amount in per.items():
        total += amount * (genotypes == operation).sum(1)
    return total
