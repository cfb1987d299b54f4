"""What a search tells while it runs. Everything in an event is on disk before the event is yielded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwnas.core.trial import SearchResult, Trial
from hwnas.core.workload import Candidate


@dataclass(frozen=True, slots=True)
class Started:
    """The search begins; `recorded` answers of an earlier run are in the journal and will not be asked for again."""

    manifest: Mapping[str, Any]
    recorded: int


@dataclass(frozen=True, slots=True)
class MeasuredOnDevice:
    """The device answered for a whole candidate: SI values by metric, or why there are none. `count` is how many so far."""

    candidate: Candidate
    encoded: str
    measured: Mapping[str, float]
    failure: str | None
    count: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class AccuracyKnown:
    """The accuracy function answered; None where it could not. `count` is how many candidates it was asked for so far."""

    candidate: Candidate
    encoded: str
    accuracy: float | None
    count: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A trial is complete and the strategy was told."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class Front:
    """The non-dominated feasible trials have changed."""

    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The search is over."""

    result: SearchResult


Event = Started | MeasuredOnDevice | AccuracyKnown | Evaluated | Front | Finished
