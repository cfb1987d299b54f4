"""The latency table: what was measured on one kind of device by one recipe, as append-only JSON lines.

Line 1 is the header (device, machine, fidelity, toolchain with version, options and schedule); then come context,
workload, network, measurement and check lines, each with its content id. Merging is set union by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from hwnas.core.measurement import Context, Failure, Fidelity, Measurement, Samples
from hwnas.core.workload import Network, Workload
from hwnas.errors import DataError, MeasurementInvalid, TableConflict
from hwnas.records import RecordFile, read_records, write_records
from hwnas.tables.lines import Check, Item, Recipe, header_line, line_of, parse_line


class LatencyTable:
    """The rows of one recipe, in memory; `append` through `TableFile` writes them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.contexts: dict[str, Context] = {}
        self.workloads: dict[str, Workload] = {}
        self.networks: dict[str, Network] = {}
        self.measurements: dict[str, Measurement] = {}
        self.checks: dict[str, Check] = {}
        self.torn = b""

    def add(self, item: Item) -> bool:
        """Take in one line's value; False if it was known. Raises TableConflict for another recipe or foreign ids."""
        match item:
            case Context():
                if clash := self.recipe.difference(Recipe.of(item)):
                    raise TableConflict(f"one table cannot hold {clash}")
                return _put(self.contexts, item.id, item)
            case Workload():
                return _put(self.workloads, item.id, item)
            case Network():
                if unknown := [p for p in item.parts if p not in self.workloads]:
                    raise TableConflict(f"network {item.id} has a part {unknown[0]} that the table does not know")
                return _put(self.networks, item.id, item)
            case Measurement():
                if item.context not in self.contexts:
                    raise TableConflict(
                        f"measurement {item.id} has a context {item.context} that the table does not know"
                    )
                if item.subject not in self.workloads and item.subject not in self.networks:
                    raise TableConflict(f"measurement {item.id} is of {item.subject}, which the table does not know")
                if isinstance(item.result, Samples):
                    try:
                        self.recipe.check(item.result)
                    except MeasurementInvalid as error:
                        raise TableConflict(f"measurement {item.id} does not belong here: {error}") from error
                return _put(self.measurements, item.id, item)
            case Check():
                if item.context not in self.contexts:
                    raise TableConflict(f"a check has a context {item.context} that the table does not know")
                return _put(self.checks, item.context, item)

    def valid(self, row: Measurement) -> bool:
        """Whether a row is a number to be used: it did not fail, and its session passed its check."""
        check = self.checks.get(row.context)
        return row.ok and (check is None or check.passed)

    def values(
        self, metric: str | None = None, read: Callable[[Samples], float | None] | None = None
    ) -> dict[str, float]:
        """subject id -> median over its valid rows (SI units); subjects without a valid row are absent.

        `metric` is what a run is measured in at the table's fidelity unless named; a use of memory in bytes will do.
        A row's value is the median of its readings, or their 95th percentile in a table of the sustained protocol;
        `read` finds it in another way.
        """
        found: dict[str, list[float]] = {}
        for row in self.measurements.values():
            if self.valid(row) and isinstance(row.result, Samples):
                of = metric or self.recipe.fidelity.metric
                value = self.value(row.result, of) if read is None else read(row.result)
                if value is not None:
                    found.setdefault(row.subject, []).append(value)
        return {subject: float(median(values)) for subject, values in found.items()}

    def value(self, samples: Samples, metric: str) -> float | None:
        """What a row says of a metric, by the statistic of the table's protocol; None if it was not measured."""
        if self.recipe.protocol is not None and metric == self.recipe.fidelity.metric:
            readings = sorted(samples.readings(metric))
            return readings[ceil(0.95 * len(readings)) - 1] if readings else None
        return samples.metric(metric)

    def failures(self) -> dict[str, Failure]:
        """subject id -> its last failure, for subjects that have no valid row."""
        good = {row.subject for row in self.measurements.values() if self.valid(row)}
        last: dict[str, Failure] = {}
        for row in self.measurements.values():
            if row.subject in good:
                continue
            if isinstance(row.result, Failure):
                last[row.subject] = row.result
            else:
                drift = self.checks[row.context].drift
                last[row.subject] = Failure(
                    "check", "MeasurementInvalid", f"the reference workload drifted by {drift:.0%}"
                )
        return last

    def lines(self) -> Iterable[dict[str, Any]]:
        """Every line in canonical order: header, contexts, workloads, networks, measurements by time, checks."""
        yield header_line(self.recipe)
        yield from (line_of(c) for c in sorted(self.contexts.values(), key=lambda c: (c.started, c.id)))
        yield from (line_of(w) for w in sorted(self.workloads.values(), key=lambda w: w.id))
        yield from (line_of(n) for n in sorted(self.networks.values(), key=lambda n: n.id))
        yield from (line_of(m) for m in sorted(self.measurements.values(), key=lambda m: (m.taken, m.id)))
        yield from (line_of(c) for c in sorted(self.checks.values(), key=lambda c: c.context))

    def write(self, path: Path) -> None:
        """Write the whole table to a new file, atomically."""
        write_records(path, self.lines())

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read and check a table. Raises DataError for a line that is not what its id says, TableConflict for mixes."""
        records, torn = read_records(path)
        table = cls.from_records(records, path)
        table.torn = torn
        return table

    @classmethod
    def from_records(cls, records: list[dict[str, Any]], path: Path) -> LatencyTable:
        """A table from parsed lines, every id checked against its content."""
        if not records:
            raise DataError("is empty; a table starts with its header", path=path)
        table = cls(parse_line(1, records[0], "table", path))
        for number, record in enumerate(records[1:], 2):
            try:
                table.add(parse_line(number, record, None, path))
            except TableConflict as error:
                raise TableConflict(f"{path}, line {number}: {error}") from error
        return table


class TableFile:
    """A latency table open for appending; each appended line is on disk when `append` returns."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        """Open or create. Raises TableConflict if the file was measured by another recipe."""
        self._file = RecordFile(path)
        try:
            if self._file.records:
                self.table = LatencyTable.from_records(self._file.records, path)
                if clash := self.table.recipe.difference(recipe):
                    raise TableConflict(
                        f"{path}: rows of {clash} do not mix; move the table away or name another with --table"
                    )
            else:
                self.table = LatencyTable(recipe)
                self._file.append(header_line(recipe))
        except BaseException:
            self._file.close()
            raise
        self.torn = self._file.torn

    @property
    def path(self) -> Path:
        return self._file.path

    def append(self, item: Item) -> None:
        """Add a line unless it is known. Raises MeasurementInvalid, TableConflict with the file as it was."""
        line = line_of(item)  # first: what cannot be written must not be in memory either
        if self.table.add(item):
            self._file.append(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def merge(a: LatencyTable, b: LatencyTable) -> LatencyTable:
    """The set union of two tables of one recipe; commutative, associative, idempotent. Raises TableConflict."""
    if clash := a.recipe.difference(b.recipe):
        raise TableConflict(f"these tables do not mix: {clash}")
    merged = LatencyTable(a.recipe)
    for table in (a, b):
        for group in (table.contexts, table.workloads, table.networks, table.measurements):
            for item in group.values():
                merged.add(item)
        for check in table.checks.values():
            known = merged.checks.get(check.context)
            if known is None or (known.passed and not check.passed):  # one bad verdict is enough
                merged.checks[check.context] = check
    return merged


def table_path(
    folder: Path, device: str, fidelity: Fidelity, toolchain: str, protocol: str | None = None, tuned: bool = False
) -> Path:
    """Where a device's table is kept: FOLDER/DEVICE/FIDELITY-TOOLCHAIN.jsonl.

    Before .jsonl stand -tuned where the toolchain builds with tuned schedules, and -PROTOCOL but for the default one.
    """
    parts = (fidelity, toolchain, "tuned" if tuned else None, protocol)
    return folder / device / f"{'-'.join(filter(None, parts))}.jsonl"


def _put(known: dict[str, Any], key: str, item: Any) -> bool:
    if key in known:
        return False
    known[key] = item
    return True
