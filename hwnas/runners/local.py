"""The local runner: this computer is the device, and compiled code runs in a worker process with a deadline."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.core.artifact import DESCRIPTION
from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Loop
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceCrashed, DeviceError, DeviceQuarantined, DeviceTimeout, DeviceUnavailable
from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout
from hwnas.runners.arrays import decode_array, encode_array
from hwnas.runners.health import HealthReader, read_here

PLACE = "this-computer"


class LocalBoard:
    """An open session on this computer: ready until closed, or quarantined after too many failures in a row."""

    def __init__(self, device: Device, root: Path = Path("/")) -> None:
        self._device = device
        self._reader = HealthReader(read_here(root))
        threads = max(device.threads(t) for t in device.toolchains)
        self._child = Child("hwnas.runners.worker", {"HWNAS_CORE": _cores(threads), "OMP_NUM_THREADS": str(threads)})
        self._reading = {"warmup": device.protocol.warmup, "reading_s": device.protocol.reading}
        self._failures = 0
        self._first: DeviceError | None = None

    def facts(self) -> Mapping[str, Any]:
        health = self._reader.now()
        return {
            "machine": machine_name(),
            "clock_hz": health.clock_hz,
            "governor": health.governor,
            "temperature_c": health.temperature_c,
        }

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        """Nothing to prepare: an artifact is loaded from its folder when it runs."""

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        answer = self._request(artifact, {"do": "run", "readings": readings, **self._reading}, timeout_s)
        return Samples(latency_s=tuple(answer["latency_s"]), inner=int(answer["inner"]))

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Loop:
        answer = self._request(artifact, {"do": "loop", "seconds": seconds, **self._reading}, seconds + timeout_s)
        return Loop(int(answer["runs"]), float(answer["began_s"]), float(answer["ended_s"]))

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        answer = self._request(artifact, {"do": "outputs", "inputs": [encode_array(i) for i in inputs]}, timeout_s)
        return [decode_array(o) for o in answer["outputs"]]

    def health(self) -> Health:
        return self._reader.health()

    def close(self) -> None:
        self._child.close()

    def _request(self, artifact: Artifact, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self._first is not None and self._failures >= self._device.protocol.failures_in_a_row:
            raise DeviceQuarantined(
                f"{self._failures} failures in a row; the first was: {self._first}"
            ) from self._first
        path = Path(artifact.path)
        if not (path / DESCRIPTION).is_file():
            raise DeviceError(f"there is no artifact at {path}")
        message = {
            **request,
            "path": str(path.resolve()),
            "stamp": str((path / DESCRIPTION).stat().st_mtime_ns),
            "toolchain": artifact.toolchain,
            "options": dict(artifact.options),
        }
        error: DeviceError
        try:
            answer = self._child.request(message, timeout_s)
        except ChildTimeout as cause:
            error = DeviceTimeout(str(cause))
        except ChildCrashed as cause:
            error = DeviceCrashed(str(cause))
        except ChildError as cause:
            error = DeviceError(f"{cause.kind}: {cause}")
        else:
            self._failures, self._first = 0, None
            return answer
        self._failures += 1
        self._first = self._first or error
        raise error


class LocalRunner:
    """Runs on the computer that hwnas runs on."""

    name = "local"
    remote = False

    def places(self, device: Device) -> tuple[str, ...]:
        return (PLACE,)

    def open(self, device: Device, place: str | None = None) -> LocalBoard:
        if place not in (None, PLACE):
            raise DeviceUnavailable(f"there is no board {place!r} of {device.name}, only {PLACE!r}")
        return LocalBoard(device)


def machine_name() -> str:
    """What this computer's processor calls itself, and how many cores it has."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def _cores(threads: int) -> str:
    """The last cores this process may use: the first ones take most interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return ""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[-threads:]))
