"""The lines of a latency table: each value to one JSON object with a content id, and back with every id checked."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from hwnas.core.measurement import (
    STAGES,
    Context,
    EnergyWindow,
    Failure,
    Fidelity,
    Measurement,
    Samples,
    known_fields,
)
from hwnas.core.workload import Network, Workload
from hwnas.digest import content_id
from hwnas.errors import DataError

SCHEMA = 1
SUSTAINED = "sustained"
"""The protocol of tables whose values are 95th percentiles of a board under lasting load."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What every row of a table shares; rows of two recipes are not comparable and never mix."""

    device: str
    machine: str
    fidelity: Fidelity
    toolchain: str
    toolchain_version: str
    schedule: str
    options: Mapping[str, Any]
    protocol: str | None = None
    """SUSTAINED, or None for the default protocol: medians of a cool board."""

    @classmethod
    def of(cls, context: Context) -> Recipe:
        shared = {f.name: getattr(context, f.name) for f in fields(cls) if f.name != "protocol"}
        return cls(**shared, protocol=SUSTAINED if context.protocol.get("statistic") == "p95" else None)

    def difference(self, other: Recipe) -> str | None:
        """The first field in which two recipes differ, in words; None if they are the same."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                return f"{field.name.replace('_', ' ')} {mine!s} and {theirs!s}"
        return None


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict on a session: how much the reference workload changed from its start to its end (relative)."""

    context: str
    drift: float
    passed: bool


Item: TypeAlias = Context | Workload | Network | Measurement | Check
"""What a line after the header holds."""


def header_line(recipe: Recipe) -> dict[str, Any]:
    """The first line of a table."""
    known = {k: v for k, v in asdict(recipe).items() if v is not None}
    body = {**known, "fidelity": str(recipe.fidelity), "schema": SCHEMA}
    return {"kind": "table", "id": content_id(body), **body}


def _context_line(context: Context) -> dict[str, Any]:
    return {"kind": "context", "id": context.id, **context.as_json()}


def _workload_line(workload: Workload) -> dict[str, Any]:
    return {"kind": "workload", "id": workload.id, "op": workload.op, "onnx": base64.b64encode(workload.onnx).decode()}


def _network_line(network: Network) -> dict[str, Any]:
    return {"kind": "network", "id": network.id, **asdict(network), "parts": dict(network.parts)}


def _measurement_line(row: Measurement) -> dict[str, Any]:
    result = known_fields(row.result)
    kind = "samples" if isinstance(row.result, Samples) else "failure"
    known = {"subject": row.subject, "context": row.context, "taken": row.taken}
    return {"kind": "measurement", "id": row.id, **known, kind: result}


def _check_line(check: Check) -> dict[str, Any]:
    return {"kind": "check", "id": content_id(asdict(check)), **asdict(check)}


def line_of(item: Item) -> dict[str, Any]:
    """The line of a value, ready to be written."""
    return _LINES[type(item)](item)


_LINES: dict[type, Callable[[Any], dict[str, Any]]] = {
    Context: _context_line,
    Workload: _workload_line,
    Network: _network_line,
    Measurement: _measurement_line,
    Check: _check_line,
}


def parse_line(number: int, record: dict[str, Any], kind: str | None, path: Path) -> Any:
    """The value in a line, its id checked against its content.

    `kind` is the kind that has to stand here, or None for any but the header. Raises DataError with the line number.
    """
    given = record.get("kind")
    try:
        if kind is None and given not in _PARSERS:
            raise ValueError(f"unknown kind {given!r}")
        if kind is not None and given != kind:
            raise ValueError(f"a {kind} line has to stand here, not {given!r}")
        parser = _parse_header if kind == "table" else _PARSERS[str(given)]
        item = parser({k: v for k, v in record.items() if k not in ("kind", "id")})
        line = header_line(item) if isinstance(item, Recipe) else line_of(item)
        if line["id"] != record["id"]:
            raise ValueError(f"its id is {record['id']} but its content hashes to {line['id']}")
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise DataError(f"line {number} is not a valid table line: {error}", path=path) from error
    return item


def _parse_header(body: dict[str, Any]) -> Recipe:
    if body.pop("schema") != SCHEMA:
        raise ValueError(f"schema is not {SCHEMA}; this table needs another version of hwnas")
    return Recipe(**{**body, "fidelity": Fidelity(body["fidelity"])})


def _parse_context(body: dict[str, Any]) -> Context:
    return Context(**{**body, "fidelity": Fidelity(body["fidelity"])})


def _parse_workload(body: dict[str, Any]) -> Workload:
    return Workload(onnx=base64.b64decode(body["onnx"], validate=True), op=str(body["op"]))


def _parse_network(body: dict[str, Any]) -> Network:
    parts = {str(k): int(v) for k, v in body["parts"].items()}
    if any(count < 1 for count in parts.values()):
        raise ValueError("a part is counted less than once")
    return Network(**{**body, "parts": parts})


def _parse_measurement(body: dict[str, Any]) -> Measurement:
    result: Samples | Failure
    if "samples" in body:
        result = _samples(body["samples"])
    else:
        result = Failure(**body["failure"])
        if result.stage not in STAGES:
            raise ValueError(f"unknown stage {result.stage!r}")
    return Measurement(subject=body["subject"], context=body["context"], result=result, taken=body["taken"])


def _samples(body: dict[str, Any]) -> Samples:
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
    if "energy" in lists:
        lists["energy"] = tuple(EnergyWindow(**{**w, "rails": tuple(w.get("rails", ()))}) for w in lists["energy"])
    found = Samples(**lists)
    numbers = [*found.latency_s, *(found.instructions or ()), *(found.cycles or ())]
    if not numbers or not all(_positive(n) for n in numbers):
        raise ValueError("samples must be positive numbers, and at least one")
    if not all(isinstance(n, int) and n >= 0 for n in (found.memory or {}).values()):
        raise ValueError("bytes of memory must be whole numbers")
    for window in found.energy or ():
        if not all(_positive(n) for n in (window.gross_j, window.window_s, window.runs, window.samples)):
            raise ValueError("an energy window must have positive energy, duration, runs and samples")
    return found


def _positive(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < math.inf


def _parse_check(body: dict[str, Any]) -> Check:
    return Check(context=str(body["context"]), drift=float(body["drift"]), passed=bool(body["passed"]))


_PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "context": _parse_context,
    "workload": _parse_workload,
    "network": _parse_network,
    "measurement": _parse_measurement,
    "check": _parse_check,
}
