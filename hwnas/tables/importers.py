"""Measurements that others took: a CSV with a column `candidate` and one column a metric, its unit in the name."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas import units
from hwnas.core.estimate import METRIC_KIND
from hwnas.errors import DataError

MAX_BYTES = 200 * 2**20
SUFFIXES: dict[str, str] = {
    "s": "s", "ms": "ms", "us": "us", "ns": "ns", "j": "J", "mj": "mJ", "uj": "uJ", "bytes": "B", "kib": "KiB", "mib": "MiB",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measurements:
    """Candidates in their text form, and for each metric one SI value a candidate (None: not measurable there)."""

    candidates: Sequence[str]
    metrics: Mapping[str, Sequence[float | None]]


def read_measurements(path: Path) -> Measurements:
    """Read such a CSV. Raises DataError that names the line and column of the first thing that is wrong."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"is larger than {MAX_BYTES} bytes", path=path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", path=path) from error
    reader = csv.reader(text.splitlines())
    header = next(reader, [])
    if "candidate" not in header:
        raise DataError("needs a column 'candidate'", path=path, given="candidate", allowed=header)
    scale = {i: _metric(name) for i, name in enumerate(header) if _metric(name) is not None}
    if not scale:
        raise DataError("needs a column such as latency_ms or energy_mj (metric and unit)", path=path)
    where = header.index("candidate")
    candidates: list[str] = []
    values: dict[str, list[float | None]] = {metric[0]: [] for metric in scale.values() if metric}
    seen: set[str] = set()
    for row in reader:
        if not row:
            continue
        line = reader.line_num
        if len(row) != len(header):
            raise DataError(f"line {line} has {len(row)} values, the header {len(header)}", path=path)
        if row[where] in seen:
            raise DataError(f"line {line}: candidate {row[where]!r} stands twice", path=path)
        seen.add(row[where])
        candidates.append(row[where])
        for i, metric in scale.items():
            assert metric is not None
            values[metric[0]].append(_value(row[i], metric[1], path, line, header[i]))
    if not candidates:
        raise DataError("holds no candidates", path=path)
    return Measurements(candidates, values)


def _metric(column: str) -> tuple[str, float] | None:
    """Metric and factor to SI of a column name such as `latency_ms`; None if it is not one."""
    name, _, suffix = column.lower().rpartition("_")
    if name in METRIC_KIND and suffix in SUFFIXES:
        return name, units.parse(f"1 {SUFFIXES[suffix]}", METRIC_KIND[name])
    return (column.lower(), 1.0) if METRIC_KIND.get(column.lower()) == "count" else None


def _value(text: str, factor: float, path: Path, line: int, column: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise DataError(
            f"line {line}, {column}: {text!r} is not a positive number (empty means not measurable)", path=path
        )
    return value * factor
