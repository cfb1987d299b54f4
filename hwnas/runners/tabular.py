"""A device that answers from a CSV of whole-network measurements: public benchmarks, another lab's readings.

It runs no artifact. What it gives is a DeviceFunction over the candidates of one space, so that the same search code
runs against a benchmark in seconds. An empty field, or a number the description calls invalid, is 'not measurable'.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hwnas import units
from hwnas.core.device import Device, TabularSource
from hwnas.core.estimate import METRIC_KIND
from hwnas.core.interfaces import Board
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, DataError, DeviceUnavailable, NotMeasurable

MAX_BYTES = 256 * 2**20
Parse = Callable[[str], Candidate]


def read_columns(path: Path, candidate: str, columns: Sequence[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, candidate text and the wanted fields of each row of a CSV.

    Raises DataError for a file that is missing, too large, not CSV, or lacks a column.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"is larger than {MAX_BYTES} bytes", path=path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            for name in (candidate, *columns):
                if header.count(name) != 1:
                    fault = "stands twice" if name in header else "is not a column"
                    raise DataError(f"{name!r} {fault}", path=path, given=name, allowed=header)
            where = [header.index(name) for name in (candidate, *columns)]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"line {reader.line_num} has {len(row)} fields, not {len(header)}", path=path)
                text, *fields = (row[i].strip() for i in where)
                yield reader.line_num, text, fields
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"is not CSV: {error}", path=path) from error


def read_number(text: str, path: Path, line: int, column: str) -> float | None:
    """A finite number, None for an empty field. Raises DataError."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"line {line}: {text!r} is not a number; leave the field empty where there is none", path=path, key=column
        )
    return number


class TabularDevice:
    """Measures candidates by looking them up: a DeviceFunction. Metrics are SI values; None is 'not measurable'."""

    def __init__(self, name: str, metrics: tuple[str, ...], rows: Mapping[Candidate, tuple[float | None, ...]]) -> None:
        self.name, self.metrics = name, metrics
        self._rows = dict(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate with a row, in the order of the file."""
        return tuple(self._rows)

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """SI values by metric, those that could be measured. Raises NotMeasurable where there is none at all."""
        row = self._rows.get(candidate)
        if row is None:
            raise NotMeasurable(f"{self.name} has no measurement of candidate {list(candidate.genotype)}")
        found = {metric: value for metric, value in zip(self.metrics, row) if value is not None}
        if not found:
            raise NotMeasurable(f"{self.name} cannot run candidate {list(candidate.genotype)}")
        return found


def load_tabular(
    source: TabularSource, parse: Parse, *, name: str = "the table", folder: Path | None = None
) -> TabularDevice:
    """Read the CSV that a device description names; `parse` reads the candidates, `folder` is where a relative path starts.

    Raises ConfigError for a metric or unit that does not exist, DataError for what is wrong with the file, CandidateError
    for a candidate of another space.
    """
    if source.metrics.keys() != source.unit.keys():
        raise ConfigError("metrics and unit must name the same metrics", key="tabular.unit", given=sorted(source.unit))
    if not source.metrics:
        raise ConfigError("names no metric", key="tabular.metrics")
    scales = {metric: _scale(metric, unit) for metric, unit in source.unit.items()}
    path = (folder or Path()) / source.file
    metrics, columns = tuple(source.metrics), tuple(source.metrics.values())
    rows: dict[Candidate, tuple[float | None, ...]] = {}
    for line, text, fields in read_columns(path, source.candidate, columns):
        candidate = parse(text)
        values = []
        for metric, column, field in zip(metrics, columns, fields):
            number = read_number(field, path, line, column)
            if number is not None and source.invalid_below is not None and number <= source.invalid_below:
                number = None
            if number is not None and number < 0:
                raise DataError(
                    f"line {line}: {number:g} cannot be a measurement; if it stands for 'not measurable', say so by "
                    "tabular.invalid_below",
                    path=path,
                    key=column,
                )
            values.append(None if number is None else number * scales[metric])
        if rows.setdefault(candidate, tuple(values)) != tuple(values):
            raise DataError(f"line {line}: candidate {text!r} stands twice with different values", path=path)
    if not rows:
        raise DataError("has no rows", path=path)
    return TabularDevice(name, metrics, rows)


class TabularRunner:
    """The runner of devices with a `tabular:` section."""

    name = "tabular"
    remote = True

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def places(self, device: Device) -> tuple[str, ...]:
        return (device.name,)

    def open(self, device: Device, place: str | None = None) -> Board:
        """Raises DeviceUnavailable: there is nothing that could run an artifact; use `answers`."""
        raise DeviceUnavailable(
            f"{device.name} answers from a table and runs nothing; it measures candidates of its space"
        )

    def answers(self, device: Device, parse: Parse) -> TabularDevice:
        """The device as a function of candidates. Raises ConfigError, DataError, CandidateError."""
        if device.tabular is None:
            raise ConfigError(f"device {device.name!r} has no tabular: section", key="tabular")
        return load_tabular(device.tabular, parse, name=device.name, folder=self._folder)


def _scale(metric: str, unit: str) -> float:
    if metric not in METRIC_KIND:
        raise ConfigError(f"no metric {metric!r}", key="tabular.metrics", given=metric, allowed=METRIC_KIND)
    try:
        scale = units.parse(f"1 {unit}", METRIC_KIND[metric])
    except ConfigError as error:
        raise ConfigError(f"{unit!r} is not a unit of {metric}", key="tabular.unit") from error
    if scale <= 0:
        raise ConfigError(f"{unit!r} is not a unit of {metric}", key="tabular.unit")
    return scale
