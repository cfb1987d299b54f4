"""Measurements that others took: a CSV with a column `candidate` and one column a metric, its unit in the name."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas import units
from hwnas.core.estimate import METRIC_KIND
from hwnas.errors import ConfigError, DataError

MAX_BYTES = 200 * 2**20
SUFFIXES: dict[str, str] = {
    "s": "s", "ms": "ms", "us": "us", "ns": "ns", "j": "J", "mj": "mJ", "uj": "uJ", "bytes": "B", "kib": "KiB", "mib": "MiB",
}  # fmt: skip
_EXAMPLE = {"time": "ms", "energy": "mj", "bytes": "kib"}


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
    try:
        return _read(csv.reader(io.StringIO(text, newline=""), strict=True), path)
    except csv.Error as error:
        raise DataError(f"is not CSV: {error}", path=path) from error


def _read(rows: Any, path: Path) -> Measurements:
    header: list[str] = next(rows, [])
    if "candidate" not in header:
        raise DataError("needs a column 'candidate'", path=path, given="candidate", allowed=header)
    scale = {i: metric for i, name in enumerate(header) if (metric := _metric(name, path)) is not None}
    if not scale:
        raise DataError("needs a column such as latency_ms or energy_mj (metric and unit)", path=path)
    values: dict[str, list[float | None]] = {metric: [] for metric, _ in scale.values()}
    if len(values) < len(scale):
        double = next(metric for metric, n in Counter(metric for metric, _ in scale.values()).items() if n > 1)
        raise DataError(f"has more than one column of {double}", path=path)
    where = header.index("candidate")
    candidates: list[str] = []
    seen: set[str] = set()
    for row in rows:
        if not row:
            continue
        line = rows.line_num
        if len(row) != len(header):
            raise DataError(f"line {line} has {len(row)} values, the header {len(header)}", path=path)
        if row[where] in seen:
            raise DataError(f"line {line}: candidate {row[where]!r} stands twice", path=path)
        seen.add(row[where])
        candidates.append(row[where])
        for i, metric in scale.items():
            values[metric[0]].append(_value(row[i], metric[1], path, line, header[i]))
    if not candidates:
        raise DataError("holds no candidates", path=path)
    return Measurements(candidates, values)


def _metric(column: str, path: Path) -> tuple[str, float] | None:
    """Metric and factor to SI of a column such as `latency_ms`; None for another column. Raises DataError for its unit."""
    whole = column.lower()
    kind = METRIC_KIND.get(whole)
    if kind is not None:
        if kind != "count":
            raise DataError(f"column {column!r} has no unit; name it like {whole}_{_EXAMPLE[kind]}", path=path)
        return whole, 1.0
    name, _, suffix = whole.rpartition("_")
    if name not in METRIC_KIND or METRIC_KIND[name] == "count":
        return None
    kind = METRIC_KIND[name]
    try:
        return name, units.parse(f"1 {SUFFIXES.get(suffix, suffix)}", kind)
    except ConfigError as error:
        raise DataError(
            f"column {column!r}: {suffix!r} is no unit of {name}; name it like {name}_{_EXAMPLE[kind]}", path=path
        ) from error


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
