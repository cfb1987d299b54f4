"""The accuracy table: what every training gave, as append-only JSON lines, so that none is ever paid for twice.

A row is keyed by candidate, data set, plan and seed, and has an id of its content; merging is set union. A training
that paused has a row, and another when it went on: the one of most epochs counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.accuracy.pool import training_key
from hwnas.accuracy.training import Training
from hwnas.core.measurement import Failure
from hwnas.digest import content_id
from hwnas.errors import DataError
from hwnas.records import RecordFile, read_records, write_records

SCHEMA = 1
HEADER: dict[str, Any] = {"kind": "accuracy-table", "schema": SCHEMA}


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One training: which candidate (id, and its text in its space), on what data, how, from which seed; and what it gave."""

    candidate: str
    space: str
    text: str
    dataset: str
    plan: str
    seed: int
    result: Training | Failure

    @property
    def key(self) -> str:
        """The id of the training, whatever it gave."""
        return training_key(self.candidate, self.dataset, self.plan, self.seed)

    @property
    def id(self) -> str:
        return content_id(self._body())

    @property
    def accuracy(self) -> float:
        """Validation accuracy (fraction); NaN where the training failed or had no validation part."""
        known = self.result.val_accuracy if isinstance(self.result, Training) else None
        return float("nan") if known is None else known

    @property
    def epochs(self) -> int:
        return self.result.epochs if isinstance(self.result, Training) else 0

    def as_json(self) -> dict[str, Any]:
        """The row as a line of the file."""
        return {"kind": "training", "id": self.id, **self._body()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TrainingRow:
        """A row from a line. Raises KeyError, TypeError or ValueError for a line that is not what its id says."""
        body = dict(record)
        given = body.pop("id")
        if body.pop("kind") != "training":
            raise ValueError(f"unknown kind {record['kind']!r}")
        result: Training | Failure
        result = Training.from_json(body.pop("training")) if "training" in body else Failure(**body.pop("failure"))
        row = cls(**body, result=result)
        if row.id != given:
            raise ValueError(f"its id is {given} but its content hashes to {row.id}")
        return row

    def _body(self) -> dict[str, Any]:
        body = asdict(self)
        body["training" if isinstance(self.result, Training) else "failure"] = body.pop("result")
        return body


class AccuracyTable:
    """Training rows in memory; one that came from `open` writes each new row to its file before `append` returns."""

    def __init__(self, rows: Iterable[TrainingRow] = ()) -> None:
        self._rows: dict[str, TrainingRow] = {}
        self._best: dict[str, TrainingRow] = {}
        self._file: RecordFile | None = None
        self.torn = b""
        for row in rows:
            self._add(row)

    @classmethod
    def open(cls, path: Path) -> AccuracyTable:
        """Open or create a file for appending; `torn` holds a cut-off last line that was set aside.

        Raises DataError for a file with a line that is not what its id says, HwnasError if another process writes it.
        """
        file = RecordFile(path)
        try:
            table = cls(_parse(file.records, path))
            if not file.records:
                file.append(HEADER)
        except BaseException:
            file.close()
            raise
        table._file, table.torn = file, file.torn
        return table

    @classmethod
    def read(cls, path: Path) -> AccuracyTable:
        """Read a file without opening it for writing. Raises DataError."""
        records, torn = read_records(path)
        table = cls(_parse(records, path))
        table.torn = torn
        return table

    def append(self, row: TrainingRow) -> bool:
        """Take in a row, on disk when this returns; False if it was known. Raises HwnasError when the disk is full."""
        if row.id in self._rows:
            return False
        if self._file is not None:
            self._file.append(row.as_json())
        self._add(row)
        return True

    def find(self, key: str) -> TrainingRow | None:
        """The row that counts for a training key: whole before failed before unfinished; None if there is none."""
        return self._best.get(key)

    def best(self) -> Iterator[TrainingRow]:
        """The row that counts of every key, in order of first appearance."""
        return iter(self._best.values())

    def write(self, path: Path) -> None:
        """Write all rows to a new file, at once."""
        write_records(path, [HEADER, *(row.as_json() for row in self)])

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[TrainingRow]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def __enter__(self) -> AccuracyTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, row: TrainingRow) -> None:
        self._rows[row.id] = row
        known = self._best.get(row.key)
        if known is None or _rank(row) > _rank(known):
            self._best[row.key] = row


def _rank(row: TrainingRow) -> tuple[int, int, str]:
    """A whole training counts more than a failure, and a failure more than the part of a training that it ended.

    The id comes last, so that the order in which rows came never decides.
    """
    state = 1 if isinstance(row.result, Failure) else 2 if row.result.complete else 0
    return state, row.epochs, row.id


def _parse(records: list[dict[str, Any]], path: Path) -> Iterator[TrainingRow]:
    if records and records[0] != HEADER:
        raise DataError(f"line 1 is not the header of an accuracy table of schema {SCHEMA}", path=path)
    for number, record in enumerate(records[1:], 2):
        try:
            yield TrainingRow.from_json(record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"line {number} is not a valid training: {error}", path=path) from error


def merge(a: AccuracyTable, b: AccuracyTable) -> AccuracyTable:
    """The set union of two tables, in memory and in the order of ids; commutative, associative, idempotent."""
    rows = {row.id: row for table in (a, b) for row in table}
    return AccuracyTable(rows[i] for i in sorted(rows))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two seeds agree on the order of the same n candidates: Kendall's tau with its 95 % interval."""

    tau: float
    low: float
    high: float
    n: int


def test_retest(table: AccuracyTable, dataset: str, plan: str, seed: int = 0, draws: int = 500) -> Agreement | None:
    """Kendall's tau-b between the validation accuracies of the two lowest seeds of every candidate that has two.

    `dataset` and `plan` are digests. The interval is a percentile bootstrap over candidates, drawn from `seed`.
    None with fewer than 3 candidates, or where one seed ranks all alike. Source: Kendall, Biometrika 33 (1945).
    """
    from scipy.stats import kendalltau

    found: dict[str, list[tuple[int, float]]] = {}
    for row in table.best():
        done = isinstance(row.result, Training) and row.result.complete
        if row.dataset == dataset and row.plan == plan and done and np.isfinite(row.accuracy):
            found.setdefault(row.candidate, []).append((row.seed, row.accuracy))
    pairs = np.array([[value for _, value in sorted(found[c])[:2]] for c in sorted(found) if len(found[c]) > 1])
    if len(pairs) < 3:
        return None
    tau = float(kendalltau(pairs[:, 0], pairs[:, 1]).statistic)
    if not np.isfinite(tau):
        return None
    rng = np.random.default_rng(seed)
    chosen = (pairs[rng.integers(0, len(pairs), len(pairs))] for _ in range(draws))
    taus = [kendalltau(pair[:, 0], pair[:, 1]).statistic for pair in chosen]
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    return Agreement(tau, float(low), float(high), len(pairs))
