"""Tables for people and for other tools: summaries, comparison, Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.core.measurement import Samples
from hwnas.digest import canonical_json
from hwnas.errors import ConfigError, DataError
from hwnas.tables.table import LatencyTable


def counts(table: LatencyTable) -> dict[str, int]:
    """How many of what a table holds."""
    valid = sum(1 for row in table.measurements.values() if table.valid(row))
    return {
        "workloads": len(table.workloads),
        "networks": len(table.networks),
        "valid rows": valid,
        "failed rows": len(table.measurements) - valid,
        "sessions": len(table.contexts),
        "uncovered kernels": len(uncovered(table)),
    }


def uncovered(table: LatencyTable) -> dict[str, int]:
    """Kernels that ran without a schedule rule, by their names in the rows -> in how many subjects' valid rows."""
    subjects: dict[str, set[str]] = {}
    for row in table.measurements.values():
        if table.valid(row) and isinstance(row.result, Samples):
            for name in row.result.uncovered:
                subjects.setdefault(name, set()).add(row.subject)
    return {name: len(found) for name, found in sorted(subjects.items())}


def recipe_json(table: LatencyTable) -> dict[str, Any]:
    """The recipe as JSON."""
    return {**asdict(table.recipe), "fidelity": str(table.recipe.fidelity), "options": dict(table.recipe.options)}


def describe(table: LatencyTable, subject: str) -> str:
    """What a subject is, for people."""
    if subject in table.workloads:
        return table.workloads[subject].op
    return f"network {table.networks[subject].label}"


def summary_rows(table: LatencyTable) -> list[dict[str, Any]]:
    """Value (SI), relative half-width of the middle 90 % of readings, number of readings and code of each subject, largest first."""
    metric = table.recipe.fidelity.metric
    readings: dict[str, list[float]] = {}
    code: dict[str, tuple[str, ...]] = {}
    for row in table.measurements.values():
        if table.valid(row) and isinstance(row.result, Samples):
            readings.setdefault(row.subject, []).extend(row.result.readings(metric))
            code[row.subject] = row.result.code
    rows = []
    for subject, value in table.values(metric).items():
        low, high = np.quantile(readings[subject], [0.05, 0.95])
        rows.append(
            {
                "subject": subject,
                "what": describe(table, subject),
                "value": value,
                "half_width": float(high - low) / 2 / value,
                "readings": len(readings[subject]),
                "code": list(code[subject]),
            }
        )
    return sorted(rows, key=lambda r: -r["value"])


def compare(a: LatencyTable, b: LatencyTable) -> dict[str, Any]:
    """What two tables share and how they differ, ratios as b / a."""
    first, second = a.values(), b.values()
    both = sorted(first.keys() & second.keys())
    ratios = np.array([second[k] / first[k] for k in both])
    rows = [
        {"subject": k, "what": describe(a, k), "a": first[k], "b": second[k], "ratio": float(r)}
        for k, r in zip(both, ratios)
    ]
    recipe = [
        f"{f.name}: {getattr(a.recipe, f.name)} and {getattr(b.recipe, f.name)}"
        for f in fields(a.recipe)
        if getattr(a.recipe, f.name) != getattr(b.recipe, f.name)
    ]
    return {
        "only_a": len(first.keys() - second.keys()),
        "only_b": len(second.keys() - first.keys()),
        "both": len(both),
        "recipe": recipe,
        "ratio_quantiles": {str(q): float(np.quantile(ratios, q)) for q in (0.1, 0.5, 0.9)} if both else {},
        "rows": sorted(rows, key=lambda r: -abs(float(np.log(r["ratio"])))),
    }


def write_parquet(table: LatencyTable, path: Path) -> int:
    """Write one row a measurement; returns how many. Raises ConfigError without pyarrow, DataError on a bad path."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'hwnas[parquet]'") from error
    rows = []
    for row in table.measurements.values():
        context = table.contexts[row.context]
        sampled = isinstance(row.result, Samples)
        rows.append(
            {
                "measurement": row.id,
                "subject": row.subject,
                "what": describe(table, row.subject),
                "is_network": row.subject in table.networks,
                "valid": table.valid(row),
                "metric": table.recipe.fidelity.metric,
                "value": table.value(row.result, table.recipe.fidelity.metric)
                if isinstance(row.result, Samples)
                else None,
                "energy_j": row.result.metric("energy") if isinstance(row.result, Samples) else None,
                "readings": list(row.result.readings(table.recipe.fidelity.metric))
                if isinstance(row.result, Samples)
                else None,
                "memory": _as_text(row.result.memory) if isinstance(row.result, Samples) else None,
                "parts": _as_text(row.result.parts) if isinstance(row.result, Samples) else None,
                "traffic": _as_text(row.result.traffic) if isinstance(row.result, Samples) else None,
                "macs": row.result.macs if isinstance(row.result, Samples) else None,
                "uncovered": list(row.result.uncovered) if isinstance(row.result, Samples) else None,
                "code": list(row.result.code) if isinstance(row.result, Samples) else None,
                "failure": None if sampled else str(row.result),
                "taken": row.taken,
                "device": context.device,
                "machine": context.machine,
                "fidelity": str(context.fidelity),
                "toolchain": context.toolchain,
                "toolchain_version": context.toolchain_version,
                "schedule": context.schedule,
            }
        )
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    except OSError as error:
        raise DataError(f"cannot be written: {error}", path=path) from error
    return len(rows)


def _as_text(amounts: Mapping[str, float] | None) -> str | None:
    """Amounts by name as JSON: rows differ in the names."""
    return None if amounts is None else canonical_json(dict(amounts))
