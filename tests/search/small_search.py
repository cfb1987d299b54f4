"""What the tests of this room search: a cell space whose accuracies and latencies are formulas, and counting outsiders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.core.estimate import Budget
from hwnas.core.trial import SearchResult
from hwnas.core.workload import Candidate
from hwnas.errors import DeviceCrashed
from hwnas.search.events import Event, Finished
from hwnas.search.loop import search
from hwnas.search.tabulated import TabulatedSpace
from hwnas.spaces.cell import CellSpace

WHOLE = CellSpace(resolution=8, channels=4, cells=2)
COST_S = np.array([0.2e-3, 0.1e-3, 1.0e-3, 2.5e-3, 0.6e-3])
WORTH = np.array([0.02, 0.0, 0.09, 0.14, 0.03])


def few(n: int = 400, seed: int = 0) -> TabulatedSpace:
    """n of the cells."""
    rows = np.unique(WHOLE.sample_batch(n, np.random.default_rng(seed)), axis=0)
    return TabulatedSpace(WHOLE, [Candidate(WHOLE.id, tuple(r)) for r in rows.tolist()])


def latencies_s(genotypes: np.ndarray) -> np.ndarray:
    """Seconds of n x 6 genotypes, between 0.6 and 15 ms."""
    return COST_S[genotypes].sum(1)


def latency_s(candidate: Candidate) -> float:
    return float(latencies_s(np.array([candidate.genotype]))[0])


def accuracy_of(candidate: Candidate) -> float:
    """A fraction; edges into the output count for more."""
    weights = np.array([0.6, 0.8, 1.0, 1.0, 1.2, 1.4])
    return 0.1 + float((WORTH[list(candidate.genotype)] * weights).sum())


def limit(ms: float, **others: Any) -> Budget:
    return Budget.model_validate({"latency": f"{ms} ms", **others})


class Formula:
    """A hardware estimator that knows latencies within 10 %."""

    metrics: tuple[str, ...] = ("latency",)

    def estimate(self, genotypes: np.ndarray) -> Mapping[str, np.ndarray]:
        mean = latencies_s(genotypes)
        return {"latency": np.column_stack([mean, 1.1 * mean])}

    def learn(self, candidate: Candidate, measured: Mapping[str, float]) -> None:
        """It knows already."""


class Outside:
    """The accuracy function and the device, with a record of every question.

    `untrainable` share of the candidates have no accuracy (NaN), `broken` share crash the device: which ones follows
    from the genotype, so that a second run meets the same.
    """

    def __init__(self, *, untrainable: float = 0.0, broken: float = 0.0) -> None:
        self.untrainable, self.broken = untrainable, broken
        self.trained: list[Candidate] = []
        self.measured: list[Candidate] = []

    def accuracy(self, candidates: Sequence[Candidate]) -> Iterator[float]:
        for candidate in candidates:
            self.trained.append(candidate)
            yield math.nan if chance_of(candidate, 1) < self.untrainable else accuracy_of(candidate)

    def measure(self, candidate: Candidate) -> dict[str, float]:
        self.measured.append(candidate)
        if chance_of(candidate, 2) < self.broken:
            raise DeviceCrashed("the program ended with signal 11")
        return {"latency": latency_s(candidate)}


def chance_of(candidate: Candidate, purpose: int) -> float:
    """A number in 0..1 that belongs to the candidate."""
    return float(np.random.default_rng([purpose, *candidate.genotype]).random())


def events_of(outside: Outside, journal: Path | None = None, **settings: Any) -> Iterator[Event]:
    """A small search of the formulas; `settings` replace the usual ones."""
    usual: dict[str, Any] = {
        "strategy": "random",
        "accuracy": outside.accuracy,
        "measure": outside.measure,
        "accuracy_queries": 12,
        "device_measurements": 24,
        "batch": 4,
    }
    chosen = {**usual, **settings}
    if chosen["measure"] is None:
        chosen["device_measurements"] = 0
    space = chosen.pop("space", None) or few()
    budget = chosen.pop("budget", None) or limit(6)
    return search(space, budget, journal=journal, **chosen)


def result_of(outside: Outside, journal: Path | None = None, **settings: Any) -> SearchResult:
    """The end of that search."""
    for event in events_of(outside, journal, **settings):
        if isinstance(event, Finished):
            return event.result
    raise AssertionError("a search ends with Finished or an error")
