"""A scriptable device for tests of plug-ins and of the loops above: it answers from a rule, and fails on command.

It runs no code. Its latencies follow from the size of the artifact, so its numbers mean nothing beyond the test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Loop
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceCrashed, DeviceError, DeviceQuarantined, DeviceTimeout, DeviceUnavailable, LinkCorrupt

if TYPE_CHECKING:
    import numpy as np

Fault = Literal["timeout", "crash", "corrupt"]
ERRORS = {"timeout": DeviceTimeout, "crash": DeviceCrashed, "corrupt": LinkCorrupt}


@dataclass
class Script:
    """What the fake does: `faults` and `complaints` of its health by number of the run (from 0), `drift` as a factor a
    run, noise, absence."""

    latency_s: Callable[[Artifact], float] | None = None
    faults: dict[int, Fault] = field(default_factory=dict)
    noise: float = 0.01
    drift: float = 0.0
    absent: bool = False
    complaints: dict[int, tuple[str, ...]] = field(default_factory=dict)
    places: tuple[str, ...] = ("fake",)
    seed: int = 0


class FakeBoard:
    """A board that follows a script."""

    def __init__(self, device: Device, script: Script, place: str) -> None:
        self._device, self._script, self._place = device, script, place
        self._random = random.Random(script.seed)
        self._runs = self._failures = 0
        self.closed = False
        self.staged: list[tuple[str, ...]] = []
        self._looped = 0.0

    def facts(self) -> Mapping[str, Any]:
        return {"machine": "fake", "clock_hz": 1e9, "governor": "fixed", "temperature_c": 25.0, "board": self._place}

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        if self.closed:
            raise DeviceUnavailable("the board is closed")
        if not Path(artifact.path).is_dir():
            raise DeviceError(f"there is no artifact at {artifact.path}")
        number, self._runs = self._runs, self._runs + 1
        if fault := self._script.faults.get(number):
            self._failures += 1
            if self._failures >= self._device.protocol.failures_in_a_row:
                raise DeviceQuarantined(f"{self._failures} failures in a row; the last was a scripted {fault}")
            raise ERRORS[fault](f"scripted {fault} in run {number}")
        self._failures = 0
        latency = self._script.latency_s or artifact_latency_s
        base = latency(artifact) * (1 + self._script.drift) ** number
        noise = self._script.noise
        return Samples(latency_s=tuple(base * (1 + noise * self._random.random()) for _ in range(readings)))

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        self.staged.append(tuple(a.path for a in artifacts))

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Loop:
        latency_s = (self._script.latency_s or artifact_latency_s)(artifact)
        return Loop(max(1, round(seconds / latency_s)), self._looped, self._looped + seconds)

    def health(self) -> Health:
        number = self._runs
        return Health(1e9, "fixed", 25.0, self._script.complaints.get(number, ()))

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        raise DeviceUnavailable("the fake device computes nothing")

    def close(self) -> None:
        self.closed = True


class FakeRunner:
    """Opens fake boards; give it a Script, or get a well-behaved device."""

    name = "fake"
    remote = False

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()

    def places(self, device: Device) -> tuple[str, ...]:
        return self.script.places

    def open(self, device: Device, place: str | None = None) -> FakeBoard:
        if self.script.absent or place not in (None, *self.script.places):
            raise DeviceUnavailable(f"{device.name} is not connected (scripted)")
        return FakeBoard(device, self.script, place or self.script.places[0])


def artifact_latency_s(artifact: Artifact) -> float:
    """A latency that grows with the artifact's size: 1 us and 1 ns a byte."""
    files = [f for f in Path(artifact.path).glob("*") if f.is_file()]
    return 1e-6 + 1e-9 * sum(f.stat().st_size for f in files)
