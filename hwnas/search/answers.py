"""What a search hears from outside: accuracies and device measurements, each asked for once, counted, and recorded.

Answers of an earlier run come from the journal and count as if they had been asked for now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized

from hwnas.core.interfaces import AccuracyFunction, DeviceFunction
from hwnas.core.workload import Candidate
from hwnas.errors import (
    BuildError,
    ConfigError,
    DeviceError,
    DeviceQuarantined,
    DeviceUnavailable,
    MeasurementInvalid,
    UnsupportedOperator,
)
from hwnas.search.events import AccuracyKnown, MeasuredOnDevice
from hwnas.search.journal import Journal, Reading
from hwnas.search.problem import Problem

GONE = (DeviceUnavailable, DeviceQuarantined)
"""Errors that say something about the device and nothing about a candidate: the search stops and can be resumed."""


class Answers:
    """The accuracy function and the device behind one counter each."""

    def __init__(
        self, problem: Problem, journal: Journal, accuracy: AccuracyFunction, measure: DeviceFunction | None
    ) -> None:
        self._problem, self._journal, self._accuracy, self._measure = problem, journal, accuracy, measure
        self._accuracies: dict[Candidate, float | None] = {}
        self._readings: dict[Candidate, Reading] = {}

    @property
    def measures(self) -> bool:
        """Whether there is a device to measure on."""
        return self._measure is not None

    @property
    def accuracies_left(self) -> int:
        return self._problem.accuracy_queries - len(self._accuracies)

    @property
    def measurements_left(self) -> int:
        return self._problem.device_measurements - len(self._readings)

    def accuracy(self, candidate: Candidate) -> float | None:
        """A candidate's accuracy, None if it was not asked for or could not be told."""
        return self._accuracies.get(candidate)

    def reading(self, candidate: Candidate) -> Reading | None:
        """What the device said of a candidate, None if it was not asked."""
        return self._readings.get(candidate)

    def query(self, candidates: Sequence[Candidate]) -> Iterator[AccuracyKnown]:
        """Ask for the accuracies of new candidates, as many as are left. Raises ConfigError for impossible answers.

        An accuracy function that yields its answers one by one has each recorded when it comes.
        """
        fresh = [c for c in candidates if c not in self._accuracies][: max(self.accuracies_left, 0)]
        texts = {c: self._problem.space.encode(c) for c in fresh}
        unknown = []
        for candidate in fresh:
            if texts[candidate] in self._journal.accuracies:
                yield self._know(candidate, texts[candidate], self._journal.accuracies[texts[candidate]], True)
            else:
                unknown.append(candidate)
        if not unknown:
            return
        answers = self._accuracy(unknown)
        given = len(answers) if isinstance(answers, Sized) else len(unknown)
        if given > len(unknown):  # too few are told below: those that came are kept
            raise _miscounted(given, len(unknown))
        given = 0
        for candidate, value in zip(unknown, answers):
            checked = _checked_accuracy(value, texts[candidate])
            self._journal.add_accuracy(texts[candidate], checked)
            given += 1
            yield self._know(candidate, texts[candidate], checked, False)
        if given < len(unknown):
            raise _miscounted(given, len(unknown))

    def measure(self, candidate: Candidate) -> MeasuredOnDevice | None:
        """Measure a candidate; None if it was measured before or no measurement is left. Raises DeviceError.

        A candidate that cannot be built, loaded or run is an answer; a device that is gone is not.
        """
        if self._measure is None or candidate in self._readings or self.measurements_left <= 0:
            return None
        text = self._problem.space.encode(candidate)
        replayed = text in self._journal.readings
        if replayed:
            reading = self._journal.readings[text]
        else:
            reading = self._taken(candidate)
            self._journal.add_reading(text, reading)
        self._readings[candidate] = reading
        return MeasuredOnDevice(candidate, text, reading.measured, reading.failure, len(self._readings), replayed)

    def _taken(self, candidate: Candidate) -> Reading:
        assert self._measure is not None
        try:
            given = dict(self._measure(candidate))
        except GONE:
            raise
        except (DeviceError, MeasurementInvalid, BuildError, UnsupportedOperator) as error:
            return Reading(failure=f"{type(error).__name__}: {error}")
        values = {metric: _number(value) for metric, value in given.items()}
        if not values or not all(v is not None and math.isfinite(v) and v >= 0 for v in values.values()):
            raise ConfigError(f"the device function gave {given}, which are no measurements", key="measure")
        return Reading(measured={metric: v for metric, v in values.items() if v is not None})

    def _know(self, candidate: Candidate, text: str, accuracy: float | None, replayed: bool) -> AccuracyKnown:
        self._accuracies[candidate] = accuracy
        return AccuracyKnown(candidate, text, accuracy, len(self._accuracies), replayed)


def _checked_accuracy(value: object, text: str) -> float | None:
    """A fraction, None for NaN (a training that failed). Raises ConfigError."""
    number = math.nan if value is None else _number(value)
    if number is None:
        raise ConfigError(f"accuracy {value!r} of {text} is not a number", key="accuracy")
    if math.isnan(number):
        return None
    if not 0 <= number <= 1:
        raise ConfigError(f"accuracy {number:g} of {text} is not a fraction in 0..1", key="accuracy")
    return number


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _miscounted(given: int, asked: int) -> ConfigError:
    return ConfigError(f"the accuracy function gave {given} values for {asked} candidates", key="accuracy")
