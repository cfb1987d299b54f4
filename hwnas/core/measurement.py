"""What was measured, and in which circumstances: raw repeats or a failure, never a made-up number."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any, Literal

from hwnas.digest import content_id
from hwnas.errors import MeasurementInvalid


class Fidelity(StrEnum):
    """How a number came about. Two fidelities never mix in one table, predictor or estimate."""

    HARDWARE = "hardware"
    CYCLE_SIM = "cycle-sim"
    INSTRUCTION_SIM = "instruction-sim"
    MODEL = "model"

    @property
    def metric(self) -> RunMetric:
        """What one run is measured in: an emulator counts instructions or cycles, and its wall time is no latency."""
        return _RUN_METRIC[self]

    def of(self, metric: str) -> Fidelity:
        """The fidelity of one metric at this one: energy beside simulated cycles is a rule over traffic, so a model."""
        return Fidelity.MODEL if metric == "energy" and self is Fidelity.CYCLE_SIM else self

    @property
    def participle(self) -> str:
        """How its numbers were come by, in a word: measured, simulated or modelled."""
        return {Fidelity.HARDWARE: "measured", Fidelity.MODEL: "modelled"}.get(self, "simulated")


RunMetric = Literal["latency", "instructions", "cycles"]
_RUN_METRIC: dict[Fidelity, RunMetric] = {
    Fidelity.HARDWARE: "latency",
    Fidelity.CYCLE_SIM: "cycles",
    Fidelity.INSTRUCTION_SIM: "instructions",
    Fidelity.MODEL: "latency",
}


Stage = Literal["build", "deploy", "run", "meter", "check"]
MOST_NAMES = 10_000
"""Kernels that a row may name: no network has as many."""
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
    board: str | None = None
    counter: str | None = None

    @property
    def id(self) -> str:
        return content_id(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The known fields: a field that is not known is left out, so that a new one changes no older id."""
        known = {k: v for k, v in asdict(self).items() if v is not None}
        return {**known, "fidelity": str(self.fidelity)}


@dataclass(frozen=True, slots=True)
class EnergyWindow:
    """One gated window of a meter: `runs` runs back to back in `window_s` seconds.

    gross_j: the energy of the window (J); idle_w: the power (W) before and after it, same clocks and peripherals;
    samples and lost: readings of the meter inside the window; rails: which supply rails were summed.
    """

    gross_j: float
    idle_w: float
    window_s: float
    runs: int
    samples: int
    lost: int = 0
    rails: tuple[str, ...] = ()

    @property
    def net_j(self) -> float:
        """Energy of one run (J) above idle: (gross - idle power x window) / runs."""
        return (self.gross_j - self.idle_w * self.window_s) / self.runs


SHARED_CODE = "code:"
"""How a use of memory begins that is one function's share of `code`; the function's name follows."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw repeats of one subject. Statistics are derived, never stored.

    latency_s: seconds per run, one value a reading (each reading averages `inner` runs); empty where the
    fidelity knows no time, which is counted in instructions or cycles per run then. energy: windows of a meter, or
    None where not measured. memory: bytes by use, as built or as seen on the device (`code`, `constants`, `arena`,
    `workspace`, `stack`, and for a deployed image `flash` and `ram`; `code:NAME` is what a function takes of `code`
    that all kernels of a network share). uncovered: the kernels that ran without a
    schedule rule, each with the reason where it is known. code: the micro-kernels and other code that were chosen.
    Of an accelerator: parts is where one run goes (`accelerator`, `cpu`, `transfer`; they add up to the run), traffic
    the bytes that it moves by memory, macs its multiply-accumulates; energy is a rule over those, kept out of the row.
    """

    latency_s: tuple[float, ...] = ()
    inner: int = 1
    energy: tuple[EnergyWindow, ...] | None = None
    memory: Mapping[str, int] | None = None
    instructions: tuple[float, ...] | None = None
    cycles: tuple[float, ...] | None = None
    uncovered: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    parts: Mapping[str, float] | None = None
    traffic: Mapping[str, float] | None = None
    macs: float | None = None

    def readings(self, metric: str) -> tuple[float, ...]:
        """The readings of `latency` (s), `energy` (J, net, a run), `instructions` or `cycles`; empty if there are none."""
        if metric == "energy":
            return tuple(w.net_j for w in self.energy or ())
        values: tuple[float, ...] | None = {
            "latency": self.latency_s, "instructions": self.instructions, "cycles": self.cycles,
        }[metric]  # fmt: skip
        return values or ()

    def metric(self, name: str) -> float | None:
        """The median of the readings of a metric, or bytes of a use of memory; None if it was not measured."""
        if name in ("latency", "energy", "instructions", "cycles"):
            values = self.readings(name)
            return float(median(values)) if values else None
        found = (self.memory or {}).get(name)
        return None if found is None else float(found)

    def as_json(self) -> dict[str, Any]:
        """What is known of them, as JSON values."""
        return known_fields(self)


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
        object.__setattr__(self, "id", content_id([self.subject, self.context, known_fields(self.result), self.taken]))

    @property
    def ok(self) -> bool:
        return isinstance(self.result, Samples)


def known_fields(result: Samples | Failure) -> dict[str, Any]:
    """The fields of a result that hold something: a field that is not known changes no id."""
    return {k: v for k, v in asdict(result).items() if v is not None and v != ()}


def check_samples(samples: Samples) -> None:
    """Raises MeasurementInvalid for samples that no table may hold: wrong types, no reading, or no finite number.

    Gross energy and idle power may be zero or negative: a rail may draw nothing, and a meter has an offset.
    """
    counted = [v for v in (samples.instructions, samples.cycles) if v is not None]
    lists = [samples.latency_s, *counted]
    if not all(isinstance(v, tuple) and all(is_number(n) and n > 0 for n in v) for v in lists) or not any(lists):
        raise MeasurementInvalid("samples must be positive numbers, and at least one")
    if not _is_whole(samples.inner, 1):
        raise MeasurementInvalid(f"a reading averages {samples.inner!r} runs, not a whole number from 1 on")
    if samples.memory is not None:
        if not isinstance(samples.memory, Mapping) or not all(isinstance(use, str) for use in samples.memory):
            raise MeasurementInvalid("memory must be bytes by use")
        if not all(_is_whole(n, 0) for n in samples.memory.values()):
            raise MeasurementInvalid("bytes of memory must be whole numbers")
    for what, amounts in (("parts of a run", samples.parts), ("traffic", samples.traffic)):
        if amounts is not None and not (
            isinstance(amounts, Mapping)
            and all(isinstance(name, str) and name.isprintable() for name in amounts)
            and all(is_number(n) and n >= 0 for n in amounts.values())
        ):
            raise MeasurementInvalid(f"{what} must be amounts by name, none of them negative")
    if samples.macs is not None and not (is_number(samples.macs) and samples.macs >= 0):
        raise MeasurementInvalid("multiply-accumulates must be a number, not below 0")
    for what, names in (("uncovered kernels", samples.uncovered), ("code", samples.code)):
        if not isinstance(names, tuple) or len(names) > MOST_NAMES:
            raise MeasurementInvalid(f"{what} must be a list of at most {MOST_NAMES} names")
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            raise MeasurementInvalid(f"{what} must be printable names")
    if samples.energy is not None:
        if not isinstance(samples.energy, tuple) or not samples.energy:
            raise MeasurementInvalid("energy must be windows of a meter, at least one")
        for window in samples.energy:
            _check_window(window)


def _check_window(window: EnergyWindow) -> None:
    for name in ("gross_j", "idle_w", "window_s"):
        if not is_number(getattr(window, name)):
            raise MeasurementInvalid(f"{name} of an energy window must be a finite number")
    if not window.window_s > 0:
        raise MeasurementInvalid("an energy window must have a positive duration")
    for name, least in (("runs", 1), ("samples", 0), ("lost", 0)):
        if not _is_whole(getattr(window, name), least):
            raise MeasurementInvalid(f"{name} of an energy window must be a whole number from {least} on")
    if not isinstance(window.rails, tuple) or not all(isinstance(rail, str) for rail in window.rails):
        raise MeasurementInvalid("rails of an energy window must be names")


def is_number(value: object) -> bool:
    """Whether a value is a finite real number that fits a double; booleans are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and is_number(value) and value >= least
