"""The journal of a search: JSON lines, append-only, what is recorded is on disk.

A search is deterministic but for the answers it gets from outside: accuracies and device measurements. Those are
what the journal keeps, with the trials they led to. Going on after a stop means running the search again from its
seed, answered by the journal as long as it knows, so that a resumed search is the same search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwnas.core.trial import Trial
from hwnas.digest import content_id
from hwnas.errors import DataError
from hwnas.records import RecordFile

KIND = "search-journal"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """The device's answer for a candidate: SI values by metric, or why there are none."""

    measured: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None


class Journal:
    """The recorded answers of one search; `path` None keeps them in memory only."""

    def __init__(self, path: Path | None, manifest: Mapping[str, Any]) -> None:
        """Open or start it. Raises DataError for another search's journal or a damaged one, HwnasError if in use."""
        self._file: RecordFile | None = None
        self.accuracies: dict[str, float | None] = {}
        self.readings: dict[str, Reading] = {}
        self._trials: list[dict[str, Any]] = []
        self._replayed = 0
        if path is None:
            return
        self._file = RecordFile(path)
        try:
            self._read(path, dict(manifest))
        except BaseException:
            self._file.close()
            raise

    @property
    def recorded(self) -> int:
        """How many answers it holds."""
        return len(self.accuracies) + len(self.readings)

    def add_accuracy(self, encoded: str, accuracy: float | None) -> None:
        """Record an answer of the accuracy function, None where it could not give one."""
        self.accuracies[encoded] = accuracy
        self._append({"candidate": encoded, "accuracy": accuracy})

    def add_reading(self, encoded: str, reading: Reading) -> None:
        """Record an answer of the device."""
        self.readings[encoded] = reading
        if reading.failure is None:
            self._append({"candidate": encoded, "measured": dict(reading.measured)})
        else:
            self._append({"candidate": encoded, "failure": reading.failure})

    def add_trial(self, trial: Trial) -> None:
        """Record a trial, or check it against the one recorded at this place. Raises DataError where they differ."""
        line = {"trial": trial_json(trial)}
        if self._replayed < len(self._trials):
            if content_id(self._trials[self._replayed]) != content_id(line):
                raise DataError(
                    f"trial {trial.number} is not the one recorded there: the search was started by other code (a newer "
                    "hwnas, another predictor or estimator). Finish it with that, or begin a new journal",
                    path=self._file.path if self._file else None,
                )
            self._replayed += 1
            return
        self._append(line)

    def close(self) -> None:
        """Let others open it."""
        if self._file is not None:
            self._file.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.append(record)

    def _read(self, path: Path, manifest: dict[str, Any]) -> None:
        assert self._file is not None
        records = self._file.records
        if not records:
            self._file.append({"kind": KIND, "schema": SCHEMA, "manifest": manifest})
            return
        head = records[0]
        if (head.get("kind"), head.get("schema")) != (KIND, SCHEMA) or not isinstance(head.get("manifest"), dict):
            raise DataError(f"is not a {KIND} of schema {SCHEMA}", path=path)
        if content_id(head["manifest"]) != content_id(manifest):
            raise DataError(
                f"belongs to another search ({_difference(head['manifest'], manifest)}); name a new journal, or go back "
                "to those settings",
                path=path,
            )
        for number, record in enumerate(records[1:], 2):
            if not self._take(record):
                raise DataError(f"line {number} is not a record of a search", path=path)

    def _take(self, record: dict[str, Any]) -> bool:
        match record:
            case {"trial": dict()} if len(record) == 1:
                self._trials.append(record)
            case {"candidate": str(text), "accuracy": value} if value is None or (
                _is_number(value) and 0 <= value <= 1
            ):
                self.accuracies[text] = value
            case {"candidate": str(text), "measured": dict(values)} if values and all(map(_is_number, values.values())):
                if min(values.values()) < 0:
                    return False
                self.readings[text] = Reading(measured=values)
            case {"candidate": str(text), "failure": str(message)}:
                self.readings[text] = Reading(failure=message)
            case _:
                return False
        return True


def trial_json(trial: Trial) -> dict[str, Any]:
    """A trial as JSON; a violation or estimate without limit is null."""
    return {
        "number": trial.number,
        "candidate": trial.encoded,
        "accuracy": trial.accuracy,
        "predicted_accuracy": trial.predicted_accuracy,
        "estimates": {m: [_finite(v) for v in pair] for m, pair in trial.estimates.items()},
        "measured": dict(trial.measured),
        "violations": {m: _finite(v) for m, v in trial.violations.items()},
        "extras": dict(trial.extras),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _difference(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    keys = sorted(k for k in recorded.keys() | given.keys() if recorded.get(k) != given.get(k))
    shown = [f"{k}: {recorded.get(k)!r} there, {given.get(k)!r} here" for k in keys[:3]]
    return "; ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
