"""A law of latency with few constants: overhead, a price for each kind of operator, and a jump that some devices make.

Accelerators that compute one operator after the other obey it closely, so a few dozen measured networks fix all its
constants. The jump is what large networks take beyond the sum (a second batch of instructions, a coarser wait of the
host): its place and height are not known, so every place between two measured networks counts by how well it explains
the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hwnas.errors import DataError

_FREEDOM = 4.0
"""Degrees of freedom of the residuals' Student-t distribution: measurements have outliers."""
_SPREAD = 0.02
"""The residual's standard deviation, relative, that the first round of reweighting supposes."""
_LEAST_SPREAD = 0.003
_WIDTH = 0.02
"""A jump is spread over this part of its place."""
_EDGE = 3
"""A jump has at least this many measured networks on either side."""
_PLACES = 60
"""More places of a jump than this are not tried: they are spread over the measured networks."""
_PLAIN = 0.2
"""Prior probability that there is no jump."""
_JUMP_SD = 0.1
"""Prior standard deviation of a jump's height, as a part of the median measurement."""
_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class OperatorLaw:
    """m readings of the law, each with its probability: overhead and prices (m x 1 + k), place and height of the jump (m).

    A reading without a jump has height 0.
    """

    prices: np.ndarray
    places: np.ndarray
    heights: np.ndarray
    probability: np.ndarray

    @classmethod
    def fit(cls, counts: np.ndarray, values: np.ndarray) -> OperatorLaw:
        """Fit to n x k operator counts and n positive values.

        Relative residuals are Student-t (Lange, Little and Taylor, "Robust Statistical Modeling Using the t
        Distribution", JASA 1989), prices are not negative and have normal priors that let each kind of operator take
        all of a typical network's time. A reading's probability is its posterior density at the mode.
        """
        unit = float(np.median(values))
        relative = np.asarray(values, dtype=float) / unit
        design = np.column_stack([np.ones(len(counts)), counts])
        sd = np.r_[1.0, 1.0 / np.maximum(counts.max(0, initial=0.0), 1.0)]
        ordered = np.sort(relative)
        between = np.unique(((ordered[1:] + ordered[:-1]) / 2)[_EDGE:-_EDGE])
        if len(between) > _PLACES:
            between = between[np.linspace(0, len(between) - 1, _PLACES).astype(int)]
        prices, places, heights, density = [], [], [], []
        for place in (None, *between.tolist()):
            if place is None:
                found, spread = _mode(design, relative, sd)
                found, prior = np.r_[found, 0.0], _PLAIN if len(between) else 1.0
            else:
                above = (relative > place).astype(float)
                found, spread = _mode(np.column_stack([design, above]), relative, np.r_[sd, _JUMP_SD])
                prior = (1 - _PLAIN) / len(between)
            at = place or 1.0
            # judged by what it predicts, not by what was measured to lie above: one bad measurement is no jump
            errors = _jumped(design @ found[:-1], np.array(at), found[-1:]) / relative - 1
            prices.append(found[:-1] * unit)
            heights.append(found[-1] * unit)
            places.append(at * unit)
            density.append(
                np.log(prior) + _log_density(errors, spread) - 0.5 * ((found / np.r_[sd, _JUMP_SD]) ** 2).sum()
            )
        weight = np.exp(np.array(density) - max(density))
        return cls(np.array(prices), np.array(places), np.array(heights), weight / weight.sum())

    def predict(self, counts: np.ndarray) -> np.ndarray:
        """The mean over the readings, n values for n x k operator counts."""
        sums = self.prices[:, :1] + self.prices[:, 1:] @ counts.T
        return cast(np.ndarray, self.probability @ _jumped(sums, self.places[:, None], self.heights[:, None]))

    @property
    def width(self) -> int:
        """How many kinds of operators it was fitted on."""
        return int(self.prices.shape[1]) - 1

    def to_json(self) -> dict[str, Any]:
        """Everything that predicting needs, as JSON values."""
        return {
            "prices": self.prices.tolist(),
            "places": self.places.tolist(),
            "heights": self.heights.tolist(),
            "probability": self.probability.tolist(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> OperatorLaw:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            prices, places, heights, probability = (
                np.asarray(document[key], dtype=float) for key in ("prices", "places", "heights", "probability")
            )
            if prices.ndim != 2 or not len(prices) or not prices.shape[1]:
                raise ValueError("prices must be a matrix")
            if not places.shape == heights.shape == probability.shape == (len(prices),):
                raise ValueError("every reading needs a place, a height and a probability")
            if not all(np.isfinite(a).all() and (a >= 0).all() for a in (prices, places, heights, probability)):
                raise ValueError("numbers must be finite and not negative")
            if not (places > 0).all() or abs(probability.sum() - 1) > 1e-6:
                raise ValueError("places must be positive and probabilities add up to 1")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved operator law is not readable: {error}") from error
        return cls(prices, places, heights, probability)


def _jumped(sums: np.ndarray, places: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Sums with the jump, which is half done where the result is at its place."""
    over = (sums + heights / 2 - places) / (_WIDTH * places)
    return cast(np.ndarray, sums + heights / (1 + np.exp(-np.clip(over, -50, 50))))


def _log_density(errors: np.ndarray, spread: float) -> float:
    """Of relative errors under Student's t, but for a constant."""
    surprise = 0.5 * (_FREEDOM + 1) * np.log1p((errors / spread) ** 2 / _FREEDOM)
    return -float(surprise.sum() + len(errors) * np.log(spread))


def _mode(design: np.ndarray, values: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, float]:
    """The most probable non-negative coefficients, by reweighted least squares, and the spread of relative residuals."""
    from scipy.optimize import nnls

    n, k = design.shape
    ratio = design / values[:, None]
    weights, spread = np.ones(n), _SPREAD
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)[:, None] / spread
        matrix = np.vstack([ratio * root, np.diag(1 / sd)])
        found = nnls(matrix, np.r_[root[:, 0], np.zeros(k)], maxiter=50 * k + 1000)[0]
        errors = ratio @ found - 1
        used = max(n - k / 2, 3.0)  # the priors take about half of the coefficients' freedom
        spread = max(float(np.sqrt(weights @ errors**2 / used)), _LEAST_SPREAD)
        weights = (_FREEDOM + 1) / (_FREEDOM + (errors / spread) ** 2)
    return found, spread
