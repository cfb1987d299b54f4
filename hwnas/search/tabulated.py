"""Searching a public benchmark: accuracies from a CSV, and a space restricted to the candidates that a table knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Block, BlockCounts, Candidate
from hwnas.digest import content_id
from hwnas.errors import CandidateError, ConfigError, DataError
from hwnas.runners.tabular import Parse, read_columns, read_number

_MUTATIONS = 200


class TabulatedAccuracy:
    """An accuracy function that looks up a CSV column; `unit` says whether it holds percent or fractions."""

    def __init__(
        self, path: Path, parse: Parse, *, candidate: str, column: str, unit: Literal["%", "fraction"]
    ) -> None:
        """Raises ConfigError for another unit, DataError for what is wrong with the file, CandidateError."""
        if unit not in ("%", "fraction"):
            raise ConfigError("is not a unit of accuracy", key="unit", given=unit, allowed=("%", "fraction"))
        self.path = path
        self._values: dict[Candidate, float] = {}
        for line, text, (field,) in read_columns(path, candidate, (column,)):
            number = read_number(field, path, line, column)
            if number is None:
                continue
            value = number / 100 if unit == "%" else number
            if not 0 <= value <= 1:
                raise DataError(f"line {line}: {field} is no accuracy in the unit {unit!r}", path=path, key=column)
            if self._values.setdefault(parse(text), value) != value:
                raise DataError(f"line {line}: candidate {text!r} stands twice with different values", path=path)
        if not self._values:
            raise DataError("has no accuracies", path=path, key=column)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate whose accuracy is known, in the order of the file."""
        return tuple(self._values)

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        """Accuracies (fractions) of n candidates. Raises DataError for one that the table does not have."""
        for candidate in candidates:
            if candidate not in self._values:
                raise DataError(f"has no accuracy of candidate {list(candidate.genotype)}", path=self.path)
        return [self._values[c] for c in candidates]


class TabulatedSpace:
    """A space restricted to listed candidates, drawn uniformly; all else is the space's own."""

    def __init__(self, space: BatchSpace, candidates: Sequence[Candidate]) -> None:
        """Raises CandidateError for a candidate of another space, ConfigError for an empty list."""
        if not candidates:
            raise ConfigError("a tabulated space needs at least one candidate")
        for candidate in candidates:
            if candidate.space != space.id:
                raise CandidateError(f"the candidate belongs to space {candidate.space!r}, not to {space.id!r}")
        self._space, self._known = space, frozenset(candidates)
        self._genotypes = np.array(sorted(c.genotype for c in self._known), dtype=np.int64)
        self.name, self.id, self.input_shape, self.classes = space.name, space.id, space.input_shape, space.classes
        self.scope = content_id(self._genotypes.tolist())

    def __len__(self) -> int:
        return len(self._genotypes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._space, name)

    def enumerate(self) -> Iterator[Candidate]:
        """Every listed candidate, in the order of their genotypes."""
        return (Candidate(self.id, tuple(row)) for row in self._genotypes.tolist())

    def sample_batch(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n genotypes, n x g, uniform among the listed ones."""
        rows: np.ndarray = self._genotypes[rng.integers(len(self._genotypes), size=n)]
        return rows

    def sample(self, rng: np.random.Generator) -> Candidate:
        """One listed candidate."""
        return Candidate(self.id, tuple(self.sample_batch(1, rng)[0].tolist()))

    def mutate(self, parent: Candidate, rng: np.random.Generator) -> Candidate:
        """A listed candidate one mutation away; further away where there is none so near."""
        if len(self) == 1:
            return self.sample(rng)
        child = parent
        for attempt in range(_MUTATIONS):
            child = self._space.mutate(parent if attempt < _MUTATIONS // 2 else child, rng)
            if child in self._known and child != parent:
                return child
        return self.sample(rng)

    def crossover(self, a: Candidate, b: Candidate, rng: np.random.Generator) -> Candidate:
        """A listed mixture of the parents; a mutation of one where mixing gives none."""
        for _ in range(10):
            child = self._space.crossover(a, b, rng)
            if child in self._known and child not in (a, b):
                return child
        return self.mutate(a if rng.random() < 0.5 else b, rng)

    def encode(self, candidate: Candidate) -> str:
        return self._space.encode(candidate)

    def parse(self, text: str) -> Candidate:
        """The candidate of a text. Raises CandidateError for one that is not listed."""
        candidate = self._space.parse(text)
        if candidate not in self._known:
            raise CandidateError(f"{text!r} is not among the {len(self)} listed candidates of {self.name}")
        return candidate

    def decode(self, candidate: Candidate) -> Any:
        return self._space.decode(candidate)

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        return self._space.blocks(candidate)

    def block_counts(self, genotypes: np.ndarray) -> BlockCounts:
        return self._space.block_counts(genotypes)

    def features(self, genotypes: np.ndarray) -> np.ndarray:
        return self._space.features(genotypes)
