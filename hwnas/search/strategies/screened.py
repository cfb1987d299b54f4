"""A strategy around a strategy: of what the inner one asks for, only what survives a cheap look is evaluated in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from hwnas.core.interfaces import SearchStrategy
from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError

Screen = Callable[[Sequence[Candidate]], Sequence[float]]
"""A cheap score of n candidates (n), lower is better, such as the loss after one epoch."""


class ScreenedStrategy:
    """Asks the inner strategy for `ratio` times as many, and passes on those with the best scores.

    What was passed over keeps its score and may still come up when later candidates score worse. The screen has to
    give the same answer for the same candidate every time. Source: successive halving with one rung (Jamieson and
    Talwalkar, "Non-stochastic Best Arm Identification", AISTATS 2016).
    """

    def __init__(self, inner: SearchStrategy, screen: Screen, ratio: int) -> None:
        self._inner, self._screen, self._ratio = inner, screen, ratio
        self._waiting: dict[Candidate, float] = {}
        self._passed: set[Candidate] = set()

    def ask(self, n: int) -> list[Candidate]:
        """Up to n candidates of the best scores; NaN is the worst. Raises ConfigError for a wrong number of scores."""
        asked = [c for c in self._inner.ask(n * self._ratio) if c not in self._waiting and c not in self._passed]
        asked = list(dict.fromkeys(asked))
        scores = [float(s) for s in self._screen(asked)] if asked else []
        if len(scores) != len(asked):
            raise ConfigError(f"the screen gave {len(scores)} scores for {len(asked)} candidates", key="screen")
        self._waiting.update((c, math.inf if math.isnan(s) else s) for c, s in zip(asked, scores))
        best = sorted(self._waiting, key=lambda c: (self._waiting[c], c.id))[:n]
        for candidate in best:
            del self._waiting[candidate]
        self._passed.update(best)
        return best

    def tell(self, trials: Iterable[Trial]) -> None:
        self._inner.tell(trials)

    def predicted_accuracy(self, candidate: Candidate) -> float | None:
        """What the inner strategy predicts, where it does."""
        predicted: float | None = getattr(self._inner, "predicted_accuracy", lambda _: None)(candidate)
        return predicted
