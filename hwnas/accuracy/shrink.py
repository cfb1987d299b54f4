"""Which of a few trained networks is best: accuracies shrunk towards what their training losses say.

An accuracy on some hundred images after a few epochs is a noisy label; the training loss of the same run averages over
every sample it saw and is far less noisy. Neither is thrown away: a line through all trained networks says what the
loss predicts, and each accuracy is pulled towards it as far as its own noise demands (empirical Bayes).

Sources: Efron and Morris, "Data Analysis Using Stein's Estimator and its Generalizations", JASA 1975; training speed
as an estimator: Ru et al., NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEWEST = 6
"""Fewer networks than this define no line; their plain mean accuracies are returned."""


def shrunk_accuracies(
    accuracies: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], samples: int
) -> np.ndarray:
    """The best estimate of each of n networks' accuracy (n fractions).

    accuracies, losses: for each network one value a seed (seeds may differ in number), the loss being the last
    epoch's. samples: how many images an accuracy was counted on, which bounds its noise from below (binomial).
    """
    mean = np.array([np.mean(a) for a in accuracies])
    if len(mean) < FEWEST:
        return mean
    loss = np.log(np.maximum([np.mean(v) for v in losses], 1e-12))
    seeds = np.array([len(a) for a in accuracies])
    design = np.column_stack([np.ones(len(mean)), loss])
    fitted = design @ np.linalg.lstsq(design * np.sqrt(seeds)[:, None], mean * np.sqrt(seeds), rcond=None)[0]
    noise = _noise(accuracies, samples) / seeds
    spread = max(0.0, float(np.mean((mean - fitted) ** 2 - noise)))  # what networks differ by beyond their losses
    weight = noise / np.maximum(noise + spread, 1e-12)
    return np.asarray(weight * fitted + (1 - weight) * mean)


def _noise(accuracies: Sequence[Sequence[float]], samples: int) -> np.ndarray:
    """The variance of one accuracy of each network: of repeats on other seeds, pooled, or binomial if that is more."""
    mean = np.array([np.mean(a) for a in accuracies])
    binomial = mean * (1 - mean) / samples
    repeats = [np.asarray(a) - np.mean(a) for a in accuracies if len(a) > 1]
    degrees = sum(len(r) - 1 for r in repeats)
    pooled = sum(float(np.sum(r**2)) for r in repeats) / degrees if degrees else 0.0
    return np.asarray(np.maximum(binomial, pooled))
