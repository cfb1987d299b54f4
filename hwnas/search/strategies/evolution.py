"""Regularised evolution: tournament selection, one mutation, and the oldest dies (Real et al., AAAI 2019)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.search.problem import Problem
from hwnas.search.strategies.random import draw_feasible

_ATTEMPTS = 30


class EvolutionStrategy:
    """Ages and mutates a population; a feasible parent beats an infeasible one, less excess beats more (Deb, 2000).

    Children that the estimate finds infeasible are mutated again, a limited number of times.
    """

    def __init__(self, problem: Problem, population: int = 25, tournament: int = 5) -> None:
        self._problem, self._rng = problem, problem.rng("evolution")
        self._size, self._tournament = min(population, max(2, problem.accuracy_queries // 3)), tournament
        self._population: deque[Trial] = deque(maxlen=self._size)
        self._seen: set[tuple[int, ...]] = set()
        self._founders = 0

    def ask(self, n: int) -> list[Candidate]:
        """Up to n candidates that were not asked before; none when there are no more."""
        missing = self._size - self._founders
        if missing > 0 or not self._population:
            founders = draw_feasible(self._problem, min(n, max(missing, 1)), self._seen, self._rng)
            self._founders += len(founders)
            return founders
        children = [child for _ in range(n) if (child := self._child()) is not None]
        return children or draw_feasible(self._problem, n, self._seen, self._rng)

    def tell(self, trials: Iterable[Trial]) -> None:
        """Trials join the population, the oldest leave."""
        for trial in trials:
            self._seen.add(trial.candidate.genotype)
            self._population.append(trial)

    def _child(self) -> Candidate | None:
        """A new mutation of a tournament's winner, the one of least estimated excess among a few attempts."""
        space, best, least = self._problem.space, None, math.inf
        for _ in range(_ATTEMPTS):
            size = min(self._tournament, len(self._population))
            rivals = self._rng.choice(len(self._population), size=size, replace=False)
            parent = min((self._population[int(i)] for i in rivals), key=_rank)
            child = space.mutate(parent.candidate, self._rng)
            if child.genotype in self._seen:
                continue
            excess = float(self._problem.excess(np.array([child.genotype], dtype=np.int64))[0])
            if excess < least:
                best, least = child, excess
            if least <= 0:
                break
        if best is not None:
            self._seen.add(best.genotype)
        return best


def _rank(trial: Trial) -> tuple[float, float, int]:
    excess = sum(max(v, 0.0) for v in trial.violations.values())
    return excess, -(trial.accuracy if trial.accuracy is not None else -1.0), trial.number
