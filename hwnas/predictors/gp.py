"""A Gaussian process over network genotypes: small data, smooth extrapolation. It is one member of the network stack.

Kernel: a0 exp(-h / l0) + a1 <z, z'> + a2 exp(-|z - z'|^2 / l2) + noise, with h the Hamming distance of genotypes and
z the standardised features. Hyperparameters maximise the marginal likelihood under weak log-normal priors (Rasmussen
and Williams, "Gaussian Processes for Machine Learning", 2006, eq. 5.8 and 5.9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hwnas.errors import DataError

_PRIOR_MEAN = np.array([-1.5, 1.0, 0.0, -1.0, 0.0, -3.0])
_PRIOR_SD = np.array([1.5, 0.7, 1.5, 1.5, 1.0, 1.5])
_BOUNDS = [(-8.0, 5.0)] * 6
_JITTER = 1e-6
MAX_TUNED = 250
"""Hyperparameters are tuned on at most this many rows: a marginal likelihood takes n^3 operations."""


def _hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = np.zeros((len(a), len(b)))
    for gene in range(a.shape[1]):  # n x m at a time: the n x m x g array would not fit for a large pool
        distance += a[:, gene, None] != b[None, :, gene]
    return distance


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return cast(np.ndarray, np.maximum(distance, 0.0))


@dataclass(frozen=True, slots=True)
class _Distances:
    """What the kernel is a function of, each n x m."""

    hamming: np.ndarray
    inner: np.ndarray
    squared: np.ndarray

    @classmethod
    def between(cls, a: np.ndarray, za: np.ndarray, b: np.ndarray, zb: np.ndarray) -> _Distances:
        return cls(_hamming(a, b), za @ zb.T, _squared(za, zb))

    def kernel(self, theta: np.ndarray) -> np.ndarray:
        e = np.exp(theta)
        return cast(
            np.ndarray, e[0] * np.exp(-self.hamming / e[1]) + e[2] * self.inner + e[3] * np.exp(-self.squared / e[4])
        )

    def gradients(self, theta: np.ndarray) -> list[np.ndarray]:
        """Derivatives of the kernel by the first five logarithmic hyperparameters."""
        e = np.exp(theta)
        near = e[0] * np.exp(-self.hamming / e[1])
        smooth = e[3] * np.exp(-self.squared / e[4])
        return [near, near * self.hamming / e[1], e[2] * self.inner, smooth, smooth * self.squared / e[4]]


def _tune(distances: _Distances, target: np.ndarray) -> np.ndarray:
    """The logarithmic hyperparameters of the largest posterior density, by L-BFGS with exact gradients."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    eye = np.eye(len(target))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        noise = np.exp(theta[5])
        try:
            factor = cho_factor(distances.kernel(theta) + (noise + _JITTER) * eye, lower=True)
        except np.linalg.LinAlgError:
            return 1e6, np.zeros(6)
        alpha = cho_solve(factor, target)
        spread = cho_solve(factor, eye) - np.outer(alpha, alpha)
        slopes = [0.5 * np.sum(spread * g) for g in distances.gradients(theta)] + [0.5 * noise * np.trace(spread)]
        z = (theta - _PRIOR_MEAN) / _PRIOR_SD
        value = 0.5 * target @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * float(z @ z)
        return float(value), np.array(slopes) + z / _PRIOR_SD

    found = minimize(loss, _PRIOR_MEAN, jac=True, method="L-BFGS-B", bounds=_BOUNDS, options={"maxiter": 40})
    return np.asarray(found.x, dtype=float)


class GenotypeProcess:
    """A fitted Gaussian process; `predict` maps n x g genotypes and n x f features to n values."""

    def __init__(self, theta: np.ndarray, genotypes: np.ndarray, features: np.ndarray, values: np.ndarray) -> None:
        from scipy.linalg import cho_factor, cho_solve

        self._theta, self._genotypes, self._features, self._values = theta, genotypes, features, values
        self._centre, self._scale, self._z = _standardise(features)
        self._offset, self._unit = float(values.mean()), float(values.std()) or 1.0
        kernel = _Distances.between(genotypes, self._z, genotypes, self._z).kernel(theta)
        factor = cho_factor(kernel + (np.exp(theta[5]) + _JITTER) * np.eye(len(values)), lower=True)
        self._alpha = cho_solve(factor, (values - self._offset) / self._unit)

    @classmethod
    def fit(cls, genotypes: np.ndarray, features: np.ndarray, values: np.ndarray, *, seed: int) -> GenotypeProcess:
        """Fit n values to n x g genotypes and n x f features."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(values))[:MAX_TUNED])
        z = _standardise(features)[2][rows]
        unit = float(values.std()) or 1.0
        distances = _Distances.between(genotypes[rows], z, genotypes[rows], z)
        return cls(_tune(distances, (values[rows] - values.mean()) / unit), genotypes, features, values)

    @property
    def width(self) -> int:
        """How many features it was fitted on."""
        return int(self._features.shape[1])

    def predict(self, genotypes: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The posterior mean, n values."""
        z = (features - self._centre) * self._scale
        kernel = _Distances.between(genotypes, z, self._genotypes, self._z).kernel(self._theta)
        return cast(np.ndarray, kernel @ self._alpha * self._unit + self._offset)

    def to_json(self) -> dict[str, Any]:
        """Hyperparameters and training rows; the factorisation is done again on reading."""
        return {
            "theta": self._theta.tolist(),
            "genotypes": self._genotypes.tolist(),
            "features": self._features.tolist(),
            "values": self._values.tolist(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> GenotypeProcess:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            theta = np.asarray(document["theta"], dtype=float)
            genotypes = np.asarray(document["genotypes"], dtype=np.int64)
            features = np.asarray(document["features"], dtype=float)
            values = np.asarray(document["values"], dtype=float)
            if (
                theta.shape != (6,)
                or genotypes.ndim != 2
                or features.ndim != 2
                or values.ndim != 1
                or not len(genotypes) == len(features) == len(values) > 0
            ):
                raise ValueError("shapes do not match")
            if not all(np.isfinite(a).all() for a in (theta, features, values)):
                raise ValueError("numbers are not finite")
            return cls(theta, genotypes, features, values)
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
            raise DataError(f"the saved Gaussian process is not readable: {error}") from error


def _standardise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, scale (0 for constant columns) and standardised rows whose squared length is about 1."""
    centre, spread = features.mean(0), features.std(0)
    varies = spread > 1e-9
    scale = np.where(varies, 1.0 / (np.where(varies, spread, 1.0) * np.sqrt(max(varies.sum(), 1))), 0.0)
    return centre, scale, (features - centre) * scale
