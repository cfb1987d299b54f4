"""What the network stack knows of a candidate: indicator, count and feature columns of a space, chosen on the training rows.

A look-up table needs one column per thing that takes time: every (gene, choice), once as written and once after the
space has pruned what cannot reach the output, and every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, DataError

Pairs = tuple[tuple[int, int], ...]


@runtime_checkable
class PruningSpace(Protocol):
    """A space that can say which parts of a genotype do not influence the network's output."""

    def prune(self, genotypes: np.ndarray) -> np.ndarray:
        """n x g genotypes with every such part replaced by the choice that does nothing."""
        ...


@runtime_checkable
class CountingSpace(Protocol):
    """A space that knows which operators a compiler of whole networks leaves, and what it may refuse."""

    def operators(self, genotypes: np.ndarray) -> np.ndarray:
        """Operators by kind, n x k counts for n x g genotypes."""
        ...

    def hazards(self, genotypes: np.ndarray) -> np.ndarray:
        """Reasons by kind why a network may not run, n x h of 0 or 1."""
        ...


def genotype_rows(space: BatchSpace, candidates: Sequence[Candidate] | np.ndarray) -> np.ndarray:
    """Candidates as n x g integers. Raises CandidateError for a candidate of another space."""
    if isinstance(candidates, np.ndarray):
        if candidates.ndim != 2 or not np.issubdtype(candidates.dtype, np.integer):
            raise CandidateError(f"genotypes must be n x g integers, not {candidates.dtype} {candidates.shape}")
        return candidates
    for candidate in candidates:
        if candidate.space != space.id:
            raise CandidateError(f"candidate {candidate.genotype} belongs to space {candidate.space}, not {space.id}")
    return np.array([c.genotype for c in candidates], dtype=np.int64).reshape(len(candidates), -1)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of n candidates. raw: n x r indicators as written. parts: n x p indicators and block counts after
    pruning (block counts where the space does not prune). features: n x f graph features of the space. genotypes: n x g.
    operators: n x k counts of operators that run, no column where the space does not count them."""

    genotypes: np.ndarray
    raw: np.ndarray
    parts: np.ndarray
    features: np.ndarray
    operators: np.ndarray

    @property
    def lut(self) -> np.ndarray:
        return np.hstack([self.raw, self.parts])

    @property
    def smooth(self) -> np.ndarray:
        return np.hstack([self.parts, self.features])

    @property
    def all(self) -> np.ndarray:
        return np.hstack([self.raw, self.parts, self.features])

    def rows(self, index: np.ndarray) -> Table:
        """The table of those rows."""
        return Table(
            self.genotypes[index], self.raw[index], self.parts[index], self.features[index], self.operators[index]
        )


@dataclass(frozen=True, slots=True)
class NetworkColumns:
    """Which columns vary over the training rows, so that prediction uses the same ones in the same order."""

    raw: Pairs
    pruned: Pairs
    blocks: tuple[str, ...]
    features: tuple[int, ...]
    operators: tuple[int, ...] = ()

    @classmethod
    def choose(cls, space: BatchSpace, genotypes: np.ndarray) -> NetworkColumns:
        """The columns that vary over n x g training genotypes."""
        blocks, counts = _block_counts(space, genotypes)
        features = np.asarray(space.features(genotypes), dtype=float)
        return cls(
            raw=_pairs(genotypes),
            pruned=_pairs(space.prune(genotypes)) if isinstance(space, PruningSpace) else (),
            blocks=tuple(key for key, column in zip(blocks, counts.T) if np.ptp(column) > 0),
            features=_varying(features),
            operators=_varying(_operators(space, genotypes)),
        )

    def table(self, space: BatchSpace, genotypes: np.ndarray) -> Table:
        """The columns of n x g genotypes."""
        keys, counts = _block_counts(space, genotypes)
        where = {key: i for i, key in enumerate(keys)}
        chosen = np.zeros((len(genotypes), len(self.blocks)))
        for column, key in enumerate(self.blocks):
            if key in where:
                chosen[:, column] = counts[:, where[key]]
        features = np.asarray(space.features(genotypes), dtype=float)
        operators = _operators(space, genotypes)
        for chosen_columns, now in ((self.features, features), (self.operators, operators)):
            if chosen_columns and max(chosen_columns) >= now.shape[1]:
                raise DataError(f"the predictor was fitted on other features than space {space.id} has now")
        parts = [chosen]
        if isinstance(space, PruningSpace):
            parts.insert(0, _indicators(space.prune(genotypes), self.pruned))
        return Table(
            genotypes,
            _indicators(genotypes, self.raw),
            np.hstack(parts),
            features[:, np.array(self.features, dtype=int)],
            operators[:, np.array(self.operators, dtype=int)],
        )

    def to_json(self) -> dict[str, Any]:
        """The chosen columns as JSON values."""
        return {
            "raw": [list(p) for p in self.raw],
            "pruned": [list(p) for p in self.pruned],
            "blocks": list(self.blocks),
            "features": list(self.features),
            "operators": list(self.operators),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> NetworkColumns:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            raw, pruned = (
                tuple((int(gene), int(choice)) for gene, choice in document[key]) for key in ("raw", "pruned")
            )
            blocks = tuple(map(str, document["blocks"]))
            features, operators = (tuple(map(int, document.get(key, ()))) for key in ("features", "operators"))
            if any(gene < 0 for gene, _ in (*raw, *pruned)) or any(i < 0 for i in (*features, *operators)):
                raise ValueError("an index is negative")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved columns are not readable: {error}") from error
        return cls(raw, pruned, blocks, features, operators)


def _pairs(genotypes: np.ndarray) -> Pairs:
    return tuple(
        (gene, int(choice))
        for gene in range(genotypes.shape[1])
        if len(choices := np.unique(genotypes[:, gene])) > 1
        for choice in choices
    )


def _indicators(genotypes: np.ndarray, pairs: Pairs) -> np.ndarray:
    if not pairs:
        return np.zeros((len(genotypes), 0))
    genes, choices = np.array(pairs).T
    if genes.max() >= genotypes.shape[1]:
        raise DataError(f"the predictor was fitted on genotypes of more than {genotypes.shape[1]} genes")
    return cast(np.ndarray, genotypes[:, genes] == choices).astype(float)


def _varying(columns: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(np.ptp(columns, axis=0) > 0))


def _operators(space: BatchSpace, genotypes: np.ndarray) -> np.ndarray:
    if not isinstance(space, CountingSpace):
        return np.zeros((len(genotypes), 0))
    return np.asarray(space.operators(genotypes), dtype=float)


def _block_counts(space: BatchSpace, genotypes: np.ndarray) -> tuple[list[str], np.ndarray]:
    if isinstance(space, PruningSpace):  # the pruned genotype says the same in fewer columns
        return [], np.zeros((len(genotypes), 0))
    counted = space.block_counts(genotypes)
    return [block.key for block in counted.blocks], np.asarray(counted.counts.toarray(), dtype=float)
