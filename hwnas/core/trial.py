"""Trials and search results: what a search tried, what it believed, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwnas.core.workload import Candidate


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate that a search asked about.

    accuracy: fraction in 0..1 from the accuracy function, None where it was only estimated. estimates: SI values at
    (mean, high) by metric. measured: SI values by metric from the device. violations: relative excess by limit.
    """

    number: int
    candidate: Candidate
    encoded: str
    accuracy: float | None = None
    predicted_accuracy: float | None = None
    estimates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        return all(v <= 0 for v in self.violations.values())

    def value(self, metric: str) -> float | None:
        """The best known value of a metric: measured before estimated (mean); None if neither."""
        if metric == "accuracy":
            return self.accuracy
        if metric in self.measured:
            return self.measured[metric]
        return self.estimates[metric][0] if metric in self.estimates else None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All trials in order, the non-dominated feasible front, and the manifest that reproduces them."""

    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    manifest: Mapping[str, Any]

    @property
    def best(self) -> Trial | None:
        """The feasible trial of highest accuracy; None when nothing is feasible."""
        known = [t for t in self.trials if t.feasible and t.accuracy is not None]
        return max(known, key=lambda t: (t.accuracy or 0.0, -t.number), default=None)


def pareto_front(trials: tuple[Trial, ...], minimise: tuple[str, ...]) -> tuple[Trial, ...]:
    """The feasible trials with known accuracy that no other dominates (accuracy up, `minimise` metrics down).

    Equal points are kept once, the earliest; the result is sorted by the first minimised metric.
    """
    pool = []
    for trial in trials:
        values = [trial.value(m) for m in minimise]
        if trial.feasible and trial.accuracy is not None and all(v is not None for v in values):
            pool.append((trial, (-trial.accuracy, *(float(v) for v in values if v is not None))))
    front: list[tuple[Trial, tuple[float, ...]]] = []
    for trial, point in sorted(pool, key=lambda item: (item[1], item[0].number)):
        # sorted by -accuracy first, so only earlier points can dominate or equal this one
        if not any(all(a <= b for a, b in zip(kept, point)) for _, kept in front):
            front.append((trial, point))
    return tuple(trial for trial, point in sorted(front, key=lambda item: item[1][1:] or item[1]))
