"""Random search: uniform among the candidates that the estimate finds feasible, or among all where there is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.search.problem import Problem

_DRAWS = 50


def draw_feasible(
    problem: Problem, n: int, seen: set[tuple[int, ...]], rng: np.random.Generator, draws: int = _DRAWS
) -> list[Candidate]:
    """Up to n new candidates, uniform among those feasible by estimate; the closest ones where none turned up.

    Adds what it returns to `seen`. Fewer than n, or none, when the space seems to hold no more.
    """
    chosen: list[Candidate] = []
    misses: dict[tuple[int, ...], float] = {}
    size = max(4 * n, 64)
    for _ in range(draws):
        rows = problem.space.sample_batch(size, rng)
        for row, excess in zip(rows.tolist(), problem.excess(rows).tolist()):
            genotype = tuple(row)
            if genotype in seen:
                continue
            if excess > 0:
                misses[genotype] = excess
            elif len(chosen) < n:
                seen.add(genotype)
                chosen.append(Candidate(problem.space.id, genotype))
        if len(chosen) == n:
            return chosen
        size = min(2 * size, 4096)
    if not chosen:
        for genotype in sorted(misses, key=lambda g: (misses[g], g))[:n]:
            seen.add(genotype)
            chosen.append(Candidate(problem.space.id, genotype))
    return chosen


class RandomStrategy:
    """Asks for new candidates at random, and learns nothing."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._rng = problem, problem.rng("random")
        self._seen: set[tuple[int, ...]] = set()

    def ask(self, n: int) -> list[Candidate]:
        """Up to n candidates that were not asked before; none when there are no more."""
        return draw_feasible(self._problem, n, self._seen, self._rng)

    def tell(self, trials: Iterable[Trial]) -> None:
        """Remember what was tried, so that it is not asked again."""
        self._seen.update(trial.candidate.genotype for trial in trials)
