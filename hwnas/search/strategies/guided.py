"""Guided search: predictors of accuracy and hardware rank a large pool, and the best expected gains are tried.

Expected improvement times the probability of meeting the limits (Gardner et al., "Bayesian Optimization with
Inequality Constraints", ICML 2014). The hardware side is the problem's estimator; the accuracy side is refitted to
the accuracies told so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.search.problem import Problem, feasibility

_ENUMERABLE = 50_000
_SAMPLED = 4000
_PARENTS = 20
_CHILDREN = 60
_FEW = 8
"""Fewer accuracies than this teach nothing; until then candidates come from the first design."""
_POOR = 0.25
"""Accuracies below this quantile count as if they stood on it."""
_LIKELY, _DOUBTFUL = 0.5, 0.25
"""The least probability of meeting the limits: where a miss costs a training, and where it costs a measurement."""
_SOFTENING = 0.5
"""The exponent of that probability where a miss costs a measurement only."""


class GuidedStrategy:
    """Asks for the candidates of most expected improvement under the limits; part of each batch goes to the best mean."""

    wants_estimator = True

    def __init__(self, problem: Problem, first: int = 20, exploit: float = 0.5) -> None:
        """`first` accuracies are spent before the predictor is trusted; `exploit` is the share of each batch that is
        chosen by predicted accuracy alone."""
        self._problem, self._exploit = problem, exploit
        self._first = max(_FEW, min(first, problem.accuracy_queries // 4))
        # where every candidate is measured before it is trained, an infeasible one costs a measurement and no training
        self._cheap_misses = problem.device_measurements > problem.accuracy_queries
        self._doubtful = _DOUBTFUL if self._cheap_misses else _LIKELY
        self._rng = problem.rng("guided")
        self._seen: set[tuple[int, ...]] = set()
        self._known: dict[tuple[int, ...], Trial] = {}
        self._predictions: dict[tuple[int, ...], float] = {}
        self._whole = _enumerated(problem)
        self._whole_features = None if self._whole is None else self._features(self._whole)

    def ask(self, n: int) -> list[Candidate]:
        """Up to n candidates that were not asked before; none when the space holds no more."""
        pool, features = self._pool()
        if not len(pool):
            return []
        estimates = self._problem.estimates(pool)
        chance = feasibility(self._problem.budget, estimates) if estimates else np.ones(len(pool))
        learned = [t for t in self._known.values() if t.accuracy is not None]
        if len(learned) < self._first:
            rows = self._first_rows(n, chance)
        else:
            rows = self._guided_rows(n, pool, features, chance, learned)
        self._seen.update(tuple(g) for g in pool[rows].tolist())
        return self._problem.candidates(pool[rows])

    def tell(self, trials: Iterable[Trial]) -> None:
        """Learn from trials: accuracies teach the predictor, infeasible ones are never asked again."""
        for trial in trials:
            self._seen.add(trial.candidate.genotype)
            self._known[trial.candidate.genotype] = trial

    def predicted_accuracy(self, candidate: Candidate) -> float | None:
        """What the predictor said of a candidate when it was asked for."""
        return self._predictions.get(candidate.genotype)

    def _first_rows(self, n: int, chance: np.ndarray) -> list[int]:
        """Drawn at random, in proportion to how sure it is that they meet the limits."""
        weights = np.where(chance >= self._doubtful, chance, 0.0)
        if np.count_nonzero(weights) < n:
            order = np.argsort(-chance, kind="stable")[:n]
            return cast(list[int], order.tolist())
        chosen = self._rng.choice(len(chance), size=n, replace=False, p=weights / weights.sum())
        return cast(list[int], chosen.tolist())

    def _guided_rows(
        self, n: int, pool: np.ndarray, features: np.ndarray, chance: np.ndarray, learned: Sequence[Trial]
    ) -> list[int]:
        from hwnas.accuracy.predictor import AccuracyPredictor

        genotypes = np.array([t.candidate.genotype for t in learned], dtype=np.int64)
        values = np.array([t.accuracy for t in learned], dtype=float)
        seed = int(self._rng.integers(2**20))
        # only the order among good candidates matters: failures would swamp it, and inflate the spread of all
        values = np.maximum(values, np.quantile(values, _POOR))
        mean, spread = AccuracyPredictor(seed).fit(self._features(genotypes), values).predict(features)
        best = max((t.accuracy for t in learned if t.feasible and t.accuracy is not None), default=float(values.min()))
        gain = expected_improvement(mean, spread, best) * chance ** (_SOFTENING if self._cheap_misses else 1.0)
        rows: list[int] = []
        sure = np.where(chance >= self._doubtful, mean, mean - 1)
        for order, share in (
            (np.argsort(-sure, kind="stable"), round(self._exploit * n)),
            (np.argsort(-gain, kind="stable"), n),
        ):
            for row in order.tolist():
                if len(rows) >= min(share, n):
                    break
                if row not in rows:
                    rows.append(row)
        self._predictions.update((tuple(pool[row].tolist()), float(mean[row])) for row in rows)
        return rows

    def _pool(self) -> tuple[np.ndarray, np.ndarray]:
        """Candidates not asked before with their features: the whole space, or draws and relatives of the best."""
        if self._whole is not None and self._whole_features is not None:
            left = np.array([tuple(g) not in self._seen for g in self._whole.tolist()], dtype=bool)
            return self._whole[left], self._whole_features[left]
        space = self._problem.space
        rows = [tuple(g) for g in space.sample_batch(_SAMPLED, self._rng).tolist()]
        known = [t for t in self._known.values() if t.accuracy is not None]
        parents = sorted(known, key=lambda t: (not t.feasible, -(t.accuracy or 0.0), t.number))[:_PARENTS]
        for parent in parents:
            for _ in range(_CHILDREN):
                child = space.mutate(parent.candidate, self._rng)
                if self._rng.random() < 0.5:
                    child = space.mutate(child, self._rng)
                rows.append(child.genotype)
        for _ in range(_CHILDREN * len(parents) // 2):
            a, b = (parents[int(i)].candidate for i in self._rng.integers(len(parents), size=2))
            rows.append(space.crossover(a, b, self._rng).genotype)
        fresh = sorted(set(rows) - self._seen)
        if not fresh:
            return np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0))
        pool = np.array(fresh, dtype=np.int64)
        return pool, self._features(pool)

    def _features(self, genotypes: np.ndarray) -> np.ndarray:
        features = np.asarray(self._problem.space.features(genotypes), dtype=float)
        if self._problem.columns is None:
            return features
        return np.hstack([features, np.asarray(self._problem.columns(genotypes), dtype=float)])


def expected_improvement(mean: np.ndarray, spread: np.ndarray, best: float) -> np.ndarray:
    """How much n normal variables (mean, spread) exceed `best` by expectation (Jones et al., 1998, eq. 15)."""
    from scipy.stats import norm

    spread = np.maximum(spread, 1e-9)
    z = (mean - best) / spread
    return cast(np.ndarray, spread * (z * norm.cdf(z) + norm.pdf(z)))


def _enumerated(problem: Problem) -> np.ndarray | None:
    """Every genotype of a space that can list them and is small enough, n x g."""
    space: Any = problem.space
    if not hasattr(space, "enumerate") or not hasattr(space, "__len__") or len(space) > _ENUMERABLE:
        return None
    return np.array([c.genotype for c in space.enumerate()], dtype=np.int64)
