"""NSGA-II (Deb et al., 2002) through pymoo's ask-and-tell, with the space's own sampling, crossover and mutation."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np

from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.search.problem import Problem
from hwnas.search.strategies.random import draw_feasible

_WORST = 1e9
"""Stands for 'not known' and 'infinitely over': pymoo compares numbers only."""


class Nsga2Strategy:
    """Trades the error against the objectives, under the limits as constraints; a generation at a time."""

    def __init__(self, problem: Problem, population: int = 20) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem as PymooProblem

        self._problem = problem
        self._seen: set[tuple[int, ...]] = set()
        self._limits = tuple(problem.budget.limits())
        self._told: dict[tuple[int, ...], Trial] = {}
        self._generation: Any = None
        self._waiting: list[tuple[int, ...]] = []
        size = min(population, max(4, problem.accuracy_queries // 4))
        founders = draw_feasible(problem, size, self._seen, problem.rng("nsga2 founders"))
        first = np.array([c.genotype for c in founders], dtype=np.int64)
        crossover, mutation = _operators(problem)
        self._algorithm = NSGA2(pop_size=len(founders), sampling=first, crossover=crossover, mutation=mutation)
        self._algorithm.setup(
            PymooProblem(
                n_var=first.shape[1],
                n_obj=1 + len(problem.objectives),
                n_ieq_constr=len(self._limits),
                xl=0,
                xu=np.iinfo(np.int32).max,
                vtype=int,
            ),
            termination=("n_gen", 10**9),
            seed=int(problem.rng("nsga2").integers(2**31)),
        )

    def ask(self, n: int) -> list[Candidate]:
        """Up to n candidates of the current generation; candidates known from earlier ones may come again."""
        if isinstance(self._problem.space, Sized) and len(self._told) >= len(self._problem.space):
            return []
        for _ in range(50):
            if self._waiting:
                break
            self._next_generation()
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return [Candidate(self._problem.space.id, g) for g in taken]

    def tell(self, trials: Iterable[Trial]) -> None:
        """Remember trials; a generation whose members are all known is told to NSGA-II before the next is asked for."""
        for trial in trials:
            self._told[trial.candidate.genotype] = trial

    def _next_generation(self) -> None:
        if self._generation is not None:
            members = [tuple(int(v) for v in x) for x in self._generation.get("X")]
            self._generation.set("F", np.array([self._goals(g) for g in members]))
            self._generation.set("G", np.array([self._constraints(g) for g in members]).reshape(len(members), -1))
            self._algorithm.tell(infills=self._generation)
        self._generation = self._algorithm.ask()
        fresh = dict.fromkeys(tuple(int(v) for v in x) for x in self._generation.get("X"))
        self._waiting = [g for g in fresh if g not in self._told]

    def _goals(self, genotype: tuple[int, ...]) -> list[float]:
        trial = self._told.get(genotype)
        if trial is None:
            return [_WORST] * (1 + len(self._problem.objectives))
        values = [trial.value(m) for m in self._problem.objectives]
        goals = [0.0 if trial.accuracy is None else -trial.accuracy, *(_WORST if v is None else v for v in values)]
        return [min(g, _WORST) for g in goals]

    def _constraints(self, genotype: tuple[int, ...]) -> list[float]:
        trial = self._told.get(genotype)
        return [_WORST if trial is None else min(trial.violations.get(m, 0.0), _WORST) for m in self._limits]


def _operators(problem: Problem) -> tuple[Any, Any]:
    """pymoo operators on n x g integers that do what the space does, from the problem's own generator."""
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation

    space, rng = problem.space, problem.rng("nsga2 operators")

    def candidate(x: Any) -> Candidate:
        return Candidate(space.id, tuple(int(v) for v in x))

    class SpaceCrossover(Crossover):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(2, 2)

        def _do(self, _: Any, parents: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
            children = np.empty_like(parents)
            for i in range(parents.shape[1]):
                a, b = candidate(parents[0, i]), candidate(parents[1, i])
                children[0, i], children[1, i] = (space.crossover(*pair, rng).genotype for pair in ((a, b), (b, a)))
            return children

    class SpaceMutation(Mutation):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(prob=1.0)

        def _do(self, _: Any, rows: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
            return np.array([space.mutate(candidate(x), rng).genotype for x in rows], dtype=np.int64)

    return SpaceCrossover(), SpaceMutation()
