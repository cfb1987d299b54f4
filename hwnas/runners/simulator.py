"""The runner of devices that are priced rather than run: what its compiler or simulator said stands in the artifact.

A reading is the price of a run; readings do not scatter. Outputs come from LiteRT's reference of the same integers: it
is the network that is checked, not the accelerator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.artifact import TFLITE
from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Loop
from hwnas.core.measurement import Samples
from hwnas.core.price import read_price
from hwnas.core.workload import Artifact
from hwnas.errors import DataError, DeviceError, DeviceUnavailable

if TYPE_CHECKING:
    import numpy as np

PLACE = MACHINE = "simulator"


class SimulatedBoard:
    """An open session with a device that only answers what a run costs."""

    def __init__(self, device: Device) -> None:
        self._device, self._closed = device, False

    def facts(self) -> Mapping[str, Any]:
        clock = None if self._device.accelerator is None else self._device.accelerator.clock
        return {"machine": MACHINE, "clock_hz": clock}

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        """Nothing to prepare."""

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        if self._closed:
            raise DeviceUnavailable("the board is closed")
        try:
            price = read_price(Path(artifact.path))
        except DataError as error:
            raise DeviceError(str(error)) from error
        expected = "cycles" if self._device.metric == "cycles" else "s"
        if price.unit != expected:
            raise DeviceError(f"the price is in {price.unit}, and {self._device.name} counts {expected}")
        return price.samples(readings)

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Loop:
        """Raises DeviceUnavailable: there is nothing that a meter could be beside."""
        raise DeviceUnavailable(f"{self._device.name} is simulated: no meter can be beside it")

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        path = Path(artifact.path) / TFLITE
        if not path.is_file():
            raise DeviceUnavailable(f"the artifact holds no {TFLITE}, so nothing here can compute its outputs")
        from hwnas.runners.litert import run_tflite

        return run_tflite(path, inputs, timeout_s)

    def health(self) -> Health:
        return Health()

    def close(self) -> None:
        self._closed = True


class SimulatorRunner:
    """Opens devices that are simulated or modelled."""

    name = "simulator"
    remote = False

    def places(self, device: Device) -> tuple[str, ...]:
        return (PLACE,)

    def open(self, device: Device, place: str | None = None) -> SimulatedBoard:
        if place not in (None, PLACE):
            raise DeviceUnavailable(f"there is no board {place!r} of {device.name}, only {PLACE!r}")
        return SimulatedBoard(device)
