"""What genotypes of every space share: checks of foreign candidates, and drawing from lists of choices."""

from __future__ import annotations

import numpy as np

from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError


def checked_genotype(candidate: Candidate, space: str, sizes: np.ndarray) -> np.ndarray:
    """The genotype as a 1 x g array. Raises CandidateError for another space's candidate or genes out of range."""
    if candidate.space != space:
        raise CandidateError(f"the candidate belongs to space {candidate.space!r}, not to {space!r}")
    return checked_genotypes(np.array([candidate.genotype]), space, sizes)


def checked_genotypes(genotypes: np.ndarray, space: str, sizes: np.ndarray) -> np.ndarray:
    """The n x g array as int64. Raises CandidateError for another width, type or genes out of range.

    sizes: g, how many values each gene has.
    """
    array = np.asarray(genotypes)
    if array.ndim != 2 or array.shape[1] != len(sizes) or array.dtype.kind not in "iu":
        raise CandidateError(
            f"a genotype of {space!r} has {len(sizes)} integers, got an array {array.shape} of {array.dtype}"
        )
    array = array.astype(np.int64, copy=False)
    if len(array):
        wrong = np.flatnonzero((array.min(0) < 0) | (array.max(0) >= sizes))
        if len(wrong):
            gene = int(wrong[0])
            worst = array[:, gene].min() if array[:, gene].min() < 0 else array[:, gene].max()
            raise CandidateError(f"gene {gene} of {space!r} is 0 to {sizes[gene] - 1}, got {worst}")
    return array


def draw(n: int, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """n x g genes, each uniform among its values."""
    return rng.integers(0, sizes, (n, len(sizes)), dtype=np.int64)


def change_one(genotype: np.ndarray, free: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy (1 x g) with one gene, uniform among those where `free`, set to another of its values."""
    child: np.ndarray = genotype.copy()
    genes = np.flatnonzero(free & (sizes > 1))
    if len(genes):
        gene = int(rng.choice(genes))
        child[0, gene] = (child[0, gene] + rng.integers(1, sizes[gene])) % sizes[gene]
    return child
