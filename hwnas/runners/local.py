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

PLACE = "this-computer"


class LocalBoard:
    """An open session on this computer: ready until closed, or quarantined after too many failures in a row."""

    def __init__(self, device: Device) -> None:
        self._device = device
        threads = max(device.threads(t) for t in device.toolchains)
        self._child = Child("hwnas.runners.worker", {"HWNAS_CORE": _cores(threads), "OMP_NUM_THREADS": str(threads)})
        self._reading = {"warmup": device.protocol.warmup, "reading_s": device.protocol.reading}
        self._failures = 0
        self._first: DeviceError | None = None

    def facts(self) -> Mapping[str, Any]:
        return {
            "machine": machine_name(),
            "clock_hz": _clock_hz(),
            "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "temperature_c": _temperature_c(),
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
        facts = self.facts()
        return Health(facts["clock_hz"], facts["governor"], facts["temperature_c"])

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


def _text(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return None


def _clock_hz() -> float | None:
    if (khz := _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")) is not None:
        return float(khz) * 1e3
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2]) * 1e6
    return None


def _temperature_c() -> float | None:
    text = _text("/sys/class/thermal/thermal_zone0/temp")
    return float(text) / 1e3 if text else None
