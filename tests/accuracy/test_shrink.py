"""Accuracies shrunk towards training losses: better than either alone, and never worse off for want of data."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.accuracy.shrink import shrunk_accuracies


def law(rng: np.random.Generator, n: int, noise: float, own: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True accuracies that follow the loss up to `own`, and accuracies read with `noise`."""
    loss = np.exp(rng.uniform(-2.5, -0.5, n))
    true = 0.9 - 0.03 * np.log(loss) + rng.normal(0, own, n)
    return true, true + rng.normal(0, noise, n), loss


def errors(noise: float, own: float) -> tuple[float, float]:
    """Root mean squared error of the shrunk accuracies and of the accuracies as read, over 40 simulated runs."""
    rng = np.random.default_rng(0)
    shrunk, plain = [], []
    for _ in range(40):
        true, read, loss = law(rng, 24, noise, own)
        best = shrunk_accuracies([[a] for a in read], [[v] for v in loss], 800)
        shrunk.append(np.mean((best - true) ** 2))
        plain.append(np.mean((read - true) ** 2))
    return float(np.sqrt(np.mean(shrunk))), float(np.sqrt(np.mean(plain)))


def test_noisy_accuracies_gain_from_the_losses() -> None:
    shrunk, plain = errors(noise=0.01, own=0.004)
    assert shrunk < 0.7 * plain


def test_losses_that_say_nothing_do_little_harm() -> None:
    shrunk, plain = errors(noise=0.008, own=0.04)
    assert shrunk < 1.05 * plain


def test_repeats_on_other_seeds_are_believed_more() -> None:
    rng = np.random.default_rng(1)
    _, read, loss = law(rng, 20, 0.01, 0.004)
    once = [[a] for a in read]
    thrice = [[a, a + 0.012, a - 0.012] if i == 0 else [a] for i, a in enumerate(read)]
    first = shrunk_accuracies(once, [[v] for v in loss], 800)[0]
    again = shrunk_accuracies(thrice, [[v] * len(a) for a, v in zip(thrice, loss)], 800)[0]
    assert abs(again - read[0]) < abs(first - read[0])


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_networks_keep_their_means(n: int) -> None:
    values = shrunk_accuracies([[0.5, 0.7]] * n, [[1.0, 1.0]] * n, 100)
    assert values.tolist() == pytest.approx([0.6] * n)
