"""What to measure next: first the workloads that cover the space, then those the predictor is least sure of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hwnas.core.workload import Network, Workload

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to measure: a workload, or a whole network with its workloads, and the way to its runnable ONNX."""

    item: Workload | Network
    model: Callable[[], ModelProto] = field(repr=False, compare=False)
    parts: tuple[Workload, ...] = field(default=(), repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.item.id


def cover(features: np.ndarray, frequency: np.ndarray, rng: np.random.Generator) -> list[int]:
    """An order of n workloads in which every prefix covers the space well.

    Greedy k-centre over standardised features (n x f), distances weighted by how often a workload occurs in the
    space (frequency, n), so that a common one is reached before a rare one equally far away.
    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    n = len(features)
    if n == 0:
        return []
    scale = features.std(0)
    x = (features - features.mean(0)) / np.where(scale > 0, scale, 1.0)
    weight = np.sqrt(frequency / frequency.mean())
    order = [int(np.argmax(frequency))]
    distance = np.linalg.norm(x - x[order[0]], axis=1)
    jitter = 1 + 1e-6 * rng.random(n)  # breaks ties by the seed, not by the order of a dictionary
    left = np.ones(n, dtype=bool)
    left[order[0]] = False
    while left.any():
        score = np.where(left, (distance + 1e-9) * weight * jitter, -1.0)
        chosen = int(np.argmax(score))
        order.append(chosen)
        left[chosen] = False
        distance = np.minimum(distance, np.linalg.norm(x - x[chosen], axis=1))
    return order


Uncertainty = Callable[[Sequence[Workload]], np.ndarray]
"""How unsure a predictor is of each of n workloads: n relative standard deviations."""


class Plan:
    """Asks for subjects until there are enough: `cover_share` of the workloads by coverage, the rest by uncertainty.

    `workloads` holds the candidates to choose from with their frequency in the space; `networks` are measured after
    them, spread over the run so that an interrupted one has both. `done` subjects are never asked for again.
    """

    def __init__(
        self,
        workloads: Mapping[Workload, float],
        subjects: Mapping[str, Subject],
        networks: Sequence[Subject] = (),
        *,
        limit: int | None = None,
        features: Callable[[Sequence[Workload]], np.ndarray] | None = None,
        cover_share: float = 0.6,
        done: frozenset[str] = frozenset(),
        seed: int = 0,
    ) -> None:
        self._subjects, self._networks = subjects, [s for s in networks if s.id not in done]
        items = list(workloads)
        self._frequency = {w.id: f for w, f in workloads.items()}
        if features is not None and items:
            order = cover(features(items), np.array([workloads[w] for w in items]), np.random.default_rng(seed))
        else:
            order = list(range(len(items)))
        limit = len(items) if limit is None else min(limit, len(items))
        known = sum(1 for w in items if w.id in done)
        self._budget = max(0, limit - known)
        fresh = [items[i] for i in order if items[i].id not in done]
        covered = self._budget if limit == len(items) else max(0, round(limit * cover_share) - known)
        self._queue = fresh[:covered]
        self._pool = fresh[covered:]

    @property
    def left(self) -> int:
        """How many subjects are still to be asked for."""
        return self._budget + len(self._networks)

    @property
    def undecided(self) -> bool:
        """Whether more could be measured than will be: only then does it matter what a predictor is unsure of."""
        return len(self._pool) > self._budget - len(self._queue) > 0

    def ask(self, n: int, uncertainty: Uncertainty | None = None) -> list[Subject]:
        """The next at most n subjects; `uncertainty` chooses once the covering set is through."""
        count = min(n, self._budget)
        batch = self._queue[:count]
        del self._queue[: len(batch)]
        if (more := count - len(batch)) and self._pool:
            if uncertainty is not None:
                worth = uncertainty(self._pool) * np.array([self._frequency[w.id] for w in self._pool])
                best = set(np.argsort(-worth, kind="stable")[:more].tolist())
            else:
                best = set(range(more))
            batch += [w for i, w in enumerate(self._pool) if i in best]
            self._pool = [w for i, w in enumerate(self._pool) if i not in best]
        self._budget -= len(batch)
        share = (
            n - len(batch)
            if not self._budget
            else round(len(self._networks) * len(batch) / (self._budget + len(batch)))
        )
        networks = self._networks[:share]
        del self._networks[: len(networks)]
        return [self._subjects[w.id] for w in batch] + networks

    def give_back(self, subjects: Sequence[Subject]) -> None:
        """Put subjects at the front again, because their session failed its check."""
        for subject in subjects:
            if isinstance(subject.item, Workload):
                self._queue.insert(0, subject.item)
                self._budget += 1
            else:
                self._networks.insert(0, subject)
