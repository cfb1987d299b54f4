"""What was measured, and in which circumstances: raw repeats or a failure, never a made-up number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any, Literal

from hwnas.digest import content_id


class Fidelity(StrEnum):
    """How a number came about. Two fidelities never mix in one table, predictor or estimate."""

    HARDWARE = "hardware"
    CYCLE_SIM = "cycle-sim"
    INSTRUCTION_SIM = "instruction-sim"
    MODEL = "model"


Stage = Literal["build", "deploy", "run", "meter", "check"]
STAGES: tuple[Stage, ...] = ("build", "deploy", "run", "meter", "check")


@dataclass(frozen=True, slots=True)
class Context:
    """Provenance of one measuring session: a row without it cannot be compared with anything."""

    device: str
    device_digest: str
    machine: str
    fidelity: Fidelity
    toolchain: str
    toolchain_version: str
    options: Mapping[str, Any]
    schedule: str
    runner: str
    threads: int
    protocol: Mapping[str, Any]
    started: str
    hwnas: str
    meter: str | None = None
    firmware: str | None = None
    clock_hz: float | None = None
    governor: str | None = None
    temperature_c: float | None = None

    @property
    def id(self) -> str:
        return content_id(self.as_json())

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "fidelity": str(self.fidelity)}


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw repeats of one subject. Statistics are derived, never stored.

    latency_s: seconds per run, one value a reading (each reading averages `inner` runs); empty where the
    fidelity knows no time. energy_j: joules per run, or None where not measured.
    """

    latency_s: tuple[float, ...] = ()
    inner: int = 1
    energy_j: tuple[float, ...] | None = None
    peak_ram_bytes: int | None = None
    instructions: tuple[int, ...] | None = None
    cycles: tuple[int, ...] | None = None

    def metric(self, name: str) -> float | None:
        """The median of `latency` (s), `energy` (J), `instructions` or `cycles`; None if it was not measured."""
        values: tuple[float, ...] | tuple[int, ...] | None = {
            "latency": self.latency_s or None,
            "energy": self.energy_j,
            "instructions": self.instructions,
            "cycles": self.cycles,
        }[name]
        return float(median(values)) if values else None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no number: the stage that failed, the class of the error and its message."""

    stage: Stage
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: a subject (workload or network id) in a context gave samples or failed."""

    subject: str
    context: str
    result: Samples | Failure
    taken: str
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", content_id([self.subject, self.context, asdict(self.result), self.taken]))

    @property
    def ok(self) -> bool:
        return isinstance(self.result, Samples)
