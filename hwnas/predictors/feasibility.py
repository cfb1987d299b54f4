"""Whether a device can run a network at all, learned from networks that it ran and networks that it could not.

Where a space names the hazards of its networks, a noisy OR learns how often each one strikes: a few dozen networks are
enough, and a hazard that none of them had still counts. Trees on all columns need more networks and know no reasons;
what predicts networks that it has not seen better is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hwnas.core.interfaces import BatchSpace
from hwnas.errors import DataError
from hwnas.predictors.conformal import out_of_fold
from hwnas.predictors.stack_columns import CountingSpace, NetworkColumns
from hwnas.predictors.xgb import Trees, fit_trees

_ROUNDS = 150
_FOLDS = 5
_CERTAIN = 1e-3
"""No network is held to be more certain than this to run, or not to."""
_SLIGHT = 0.02
"""Prior mean of failures that no hazard explains, worth as many networks as _WORTH says."""
_WORTH = 10.0


@dataclass(frozen=True, slots=True)
class NoisyOr:
    """A network fails if one of its hazards strikes, each by itself, or for no reason.

    strikes: the probability that each hazard does (h); leak: that a network fails without one.
    Source: Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988, section 4.3.2.
    """

    strikes: np.ndarray
    leak: float

    @classmethod
    def fit(cls, hazards: np.ndarray, failed: np.ndarray) -> NoisyOr:
        """The posterior mode for n x h hazards (0 or 1) and n booleans.

        A hazard's probability has the prior Beta(1.5, 1.5), so that one never met strikes every second time.
        """
        from scipy.optimize import minimize

        n_hazards = hazards.shape[1]
        prior = np.r_[np.full(n_hazards, 0.5), _SLIGHT * _WORTH], np.r_[np.full(n_hazards, 0.5), (1 - _SLIGHT) * _WORTH]
        design = np.column_stack([hazards, np.ones(len(hazards))])

        def loss(z: np.ndarray) -> float:
            log_p, log_not = -np.logaddexp(0, -z), -np.logaddexp(0, z)
            survival = design @ log_not
            log_failed = np.log(np.maximum(-np.expm1(survival), 1e-300))
            likelihood = log_failed[failed].sum() + survival[~failed].sum()
            return -float(likelihood + prior[0] @ log_p + prior[1] @ log_not)

        bounds = [(-8.0, 8.0)] * (n_hazards + 1)
        z = minimize(loss, np.r_[np.zeros(n_hazards), -3.0], method="L-BFGS-B", bounds=bounds).x
        p = 1 / (1 + np.exp(-z))
        return cls(p[:-1], float(p[-1]))

    def runs(self, hazards: np.ndarray) -> np.ndarray:
        """The probability that networks of n x h hazards run, n."""
        return cast(np.ndarray, np.exp(hazards @ np.log1p(-self.strikes) + np.log1p(-self.leak)))


@dataclass(frozen=True, slots=True)
class Feasibility:
    """A fitted class 'the device can run it': by hazards, or by trees on the columns of the space."""

    hazards: NoisyOr | None
    trees: tuple[NetworkColumns, Trees] | None

    @classmethod
    def fit(cls, space: BatchSpace, genotypes: np.ndarray, runs: np.ndarray, seed: int) -> Feasibility | None:
        """Fit to n x g genotypes and n booleans; None where every network runs, so that there is nothing to learn."""
        if runs.all():
            return None
        if isinstance(space, CountingSpace):
            table = np.asarray(space.hazards(genotypes), dtype=float)

            def by_hazards(train: np.ndarray, test: np.ndarray) -> np.ndarray:
                return NoisyOr.fit(table[train], ~runs[train]).runs(table[test])

            def by_trees(train: np.ndarray, test: np.ndarray) -> np.ndarray:
                if len(set(runs[train].tolist())) == 1:  # a class that is not there cannot be learned
                    return np.full(len(test), float(runs[train][0]))
                return _by_trees(*_fit_trees(space, genotypes[train], runs[train], seed), space, genotypes[test])

            losses = [
                _log_loss(out_of_fold(len(runs), _FOLDS, np.random.default_rng([seed, 2]), way), runs)
                for way in (by_hazards, by_trees)
            ]
            if losses[0] <= losses[1]:
                return cls(NoisyOr.fit(table, ~runs), None)
        return cls(None, _fit_trees(space, genotypes, runs, seed))

    def runs(self, space: BatchSpace, genotypes: np.ndarray) -> np.ndarray:
        """The probability that the device can run n x g genotypes, n. Raises DataError for a space without the hazards."""
        if self.trees is not None:
            return _by_trees(*self.trees, space, genotypes)
        assert self.hazards is not None
        found = np.asarray(space.hazards(genotypes), dtype=float) if isinstance(space, CountingSpace) else None
        if found is None or found.shape[1] != len(self.hazards.strikes):
            raise DataError(f"the predictor was fitted on other hazards than space {space.id} names now")
        return self.hazards.runs(found)

    def to_json(self) -> dict[str, Any]:
        """Everything that predicting needs but the space, as JSON values."""
        if self.trees is not None:
            return {"columns": self.trees[0].to_json(), "trees": self.trees[1].to_json()}
        assert self.hazards is not None
        return {"strikes": self.hazards.strikes.tolist(), "leak": self.hazards.leak}

    @classmethod
    def from_json(cls, document: Any) -> Feasibility:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            if "trees" in document:
                return cls(None, (NetworkColumns.from_json(document["columns"]), Trees.from_json(document["trees"])))
            strikes, leak = np.asarray(document["strikes"], dtype=float), float(document["leak"])
            if strikes.ndim != 1 or not ((strikes > 0) & (strikes < 1)).all() or not 0 < leak < 1:
                raise ValueError("probabilities lie between 0 and 1")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved feasibility is not readable: {error}") from error
        return cls(NoisyOr(strikes, leak), None)


def _fit_trees(space: BatchSpace, genotypes: np.ndarray, runs: np.ndarray, seed: int) -> tuple[NetworkColumns, Trees]:
    columns = NetworkColumns.choose(space, genotypes)
    table = columns.table(space, genotypes).all
    return columns, fit_trees(table, runs.astype(float), rounds=_ROUNDS, seed=seed, objective="binary:logistic")


def _by_trees(columns: NetworkColumns, trees: Trees, space: BatchSpace, genotypes: np.ndarray) -> np.ndarray:
    return cast(np.ndarray, np.clip(trees.predict(columns.table(space, genotypes).all), 0.0, 1.0))


def _log_loss(chance: np.ndarray, runs: np.ndarray) -> float:
    sure = np.clip(chance, _CERTAIN, 1 - _CERTAIN)
    return float(-np.mean(np.where(runs, np.log(sure), np.log1p(-sure))))
