"""The lines of a latency table: each value to one JSON object with a content id, and back with every id checked."""

from __future__ import annotations

import base64
import binascii
import re
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
    check_samples,
    is_number,
    known_fields,
)
from hwnas.core.workload import Network, Workload
from hwnas.digest import content_id
from hwnas.errors import ConfigError, DataError, MeasurementInvalid
from hwnas.units import parse

SCHEMA = 1
SUSTAINED = "sustained"
"""How protocols begin whose values are 95th percentiles of a board under lasting load; then how long it lasted."""

_QUANTITY = re.compile(r"([0-9.eE+-]{1,32}) ?([a-zA-Z]{1,16})")


def protocol_name(protocol: Mapping[str, Any]) -> str | None:
    """The protocol of a table, such as `sustained-600s`, from a session's; None for medians, the default.

    Load of a second and of ten minutes heat a board differently, so that their rows must not meet. `heat` is text with
    a unit or seconds; what is absent heated nothing. Raises ValueError for a heat that is no time.
    """
    if protocol.get("statistic") != "p95":
        return None
    return f"{SUSTAINED}-{_seconds(protocol.get('heat', 0.0)):.10g}s"


def _seconds(heat: object) -> float:
    if isinstance(heat, str) and (found := _QUANTITY.fullmatch(heat)):  # nothing else comes before a unit's parser
        try:
            heat = float(found[1]) if found[2] == "s" else parse(heat, "time")
        except ConfigError as error:
            raise ValueError(f"heat: {error}") from error
    if not isinstance(heat, (int, float)) or not is_number(heat) or heat < 0:
        raise ValueError(f"heat is {str(heat)[:60]!r}, which is no time such as '600.0 s'")
    return float(heat)


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
    """As `protocol_name` says, such as sustained-600s, or None for the default protocol: medians of a cool board."""

    @classmethod
    def of(cls, context: Context) -> Recipe:
        shared = {f.name: getattr(context, f.name) for f in fields(cls) if f.name != "protocol"}
        return cls(**shared, protocol=protocol_name(context.protocol))

    def difference(self, other: Recipe) -> str | None:
        """The first field in which two recipes differ, in words; None if they are the same."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                return f"{field.name.replace('_', ' ')} {mine!s} and {theirs!s}"
        return None

    def check(self, samples: Samples) -> None:
        """Raises MeasurementInvalid for samples that are not of this recipe's fidelity."""
        metric = self.fidelity.metric
        if not samples.readings(metric):
            raise MeasurementInvalid(f"a {self.fidelity} table needs readings of {metric}, and there are none")
        if self.fidelity is not Fidelity.MODEL and any(window.samples < 1 for window in samples.energy or ()):
            raise MeasurementInvalid(f"an energy window of a {self.fidelity} table needs samples of a meter")


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict on a session: how much the reference workload changed from its start to its end (relative)."""

    context: str
    drift: float
    passed: bool


Item: TypeAlias = Context | Workload | Network | Measurement | Check
"""What a line after the header holds."""


def header_line(recipe: Recipe) -> dict[str, Any]:
    """The first line of a table. Raises MeasurementInvalid for what no reader would take."""
    try:
        _check_types(recipe)
    except ValueError as error:
        raise MeasurementInvalid(f"a table cannot have this recipe: {error}") from error
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
    """The line of a value, ready to be written. Raises MeasurementInvalid for what no reader would take.

    Reading goes through here too: a line that can be written can be read, and the other way round.
    """
    try:
        _check_types(item)
        if isinstance(item, Context):
            protocol_name(item.protocol)
        if isinstance(item, Measurement):
            _check_result(item.result)
        return _LINES[type(item)](item)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MeasurementInvalid(f"a table cannot hold this {type(item).__name__.lower()}: {error}") from error


_LINES: dict[type, Callable[[Any], dict[str, Any]]] = {
    Context: _context_line,
    Workload: _workload_line,
    Network: _network_line,
    Measurement: _measurement_line,
    Check: _check_line,
}


def _check_result(result: Samples | Failure) -> None:
    if isinstance(result, Samples):
        check_samples(result)
        return
    _check_types(result)
    if result.stage not in STAGES:
        raise ValueError(f"unknown stage {result.stage!r}")


def _check_types(value: Any) -> None:
    """Raises ValueError for a field that is not of the type that it is declared with."""
    for field in fields(value):
        found = getattr(value, field.name)
        if not _HELD[field.type](found):
            raise ValueError(f"{field.name.replace('_', ' ')} must be of type {field.type}, and is {found!r}"[:200])


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


_HELD: dict[Any, Callable[[Any], bool]] = {
    "str": lambda v: isinstance(v, str),
    "str | None": lambda v: v is None or isinstance(v, str),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": is_number,
    "float | None": lambda v: v is None or is_number(v),
    "bool": lambda v: isinstance(v, bool),
    "bytes": lambda v: isinstance(v, bytes),
    "Mapping[str, Any]": _is_mapping,
    "Mapping[str, int]": lambda v: _is_mapping(v) and all(type(n) is int and n > 0 for n in v.values()),
    "Fidelity": lambda v: isinstance(v, Fidelity),
    "Stage": lambda v: isinstance(v, str),
    "Samples | Failure": lambda v: isinstance(v, (Samples, Failure)),
}
"""Which values a field may hold, by its type as it is written (annotations are text here)."""


_BROKEN = (
    KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, binascii.Error, MeasurementInvalid
)  # fmt: skip
"""What parsing a line of hostile content raises."""


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
    except _BROKEN as error:
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
    return Network(**body)


def _parse_measurement(body: dict[str, Any]) -> Measurement:
    result: Samples | Failure
    if "samples" in body:
        result = _samples(body["samples"])
    else:
        result = Failure(**body["failure"])
    return Measurement(subject=body["subject"], context=body["context"], result=result, taken=body["taken"])


def _samples(body: dict[str, Any]) -> Samples:
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
    if isinstance(lists.get("energy"), tuple):
        lists["energy"] = tuple(_window(window) for window in lists["energy"])
    return Samples(**lists)


def _window(body: dict[str, Any]) -> EnergyWindow:
    rails = body.get("rails", [])
    return EnergyWindow(**{**body, "rails": tuple(rails) if isinstance(rails, list) else rails})


def _parse_check(body: dict[str, Any]) -> Check:
    return Check(**body)


_PARSERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "context": _parse_context,
    "workload": _parse_workload,
    "network": _parse_network,
    "measurement": _parse_measurement,
    "check": _parse_check,
}
