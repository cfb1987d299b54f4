"""The runner of FPGA devices: priced by the core's law of cycles, computed by the core's Verilog in Verilator.

A reading is the price in the artifact. Outputs are what the hardware gives: products cycle by cycle in the simulation,
the kernels between them in onnxruntime without graph optimisations, as the CPU beside the core computes them. The
simulated cycles of each job must be those of the law, or the artifact's price is worth nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.core.artifact import DESCRIPTION
from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Loop
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.errors import DataError, DeviceError, DeviceTimeout, DeviceUnavailable
from hwnas.firmware.fpga.build import simulator
from hwnas.firmware.fpga.driver import Driver
from hwnas.firmware.fpga.law import cycles
from hwnas.firmware.fpga.program import CoreStep, HostStep, Layout, Program, read_program
from hwnas.firmware.fpga.simulation import Simulation
from hwnas.graph.session import open_session
from hwnas.runners.simulator import PLACE, SimulatedBoard

if TYPE_CHECKING:
    from hwnas.firmware.fpga.array import Array


class LoadedProgram:
    """A program with its weights unfolded and a session for each kernel of the CPU."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._drivers = {k: Driver(s.product) for k, s in enumerate(program.steps) if isinstance(s, CoreStep)}
        self._sessions = {k: _session(s) for k, s in enumerate(program.steps) if isinstance(s, HostStep)}
        self.simulated_cycles = 0
        """Cycles of the core in the last run."""

    def outputs(self, inputs: Sequence[np.ndarray], core: Simulation, deadline: float) -> list[np.ndarray]:
        """One run. Raises DeviceError for inputs that are not the network's and for cycles that are not the law's."""
        self.simulated_cycles = 0
        held = self._inputs(inputs)
        for k, step in enumerate(self.program.steps):
            left_s = deadline - monotonic()
            if left_s <= 0:
                raise DeviceTimeout(f"the run was not done by its deadline; it had come to {step.label}")
            if isinstance(step, CoreStep):
                held[step.target] = self._product(step, self._drivers[k], held[step.source], core, left_s)
            else:
                held |= _on_cpu(step, self._sessions[k], [held[name] for name in step.sources])
        return [held[tensor.storage].reshape(tensor.shape) for tensor in self.program.outputs]

    def _inputs(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        expected = self.program.inputs
        if len(inputs) != len(expected):
            raise DeviceError(f"the network takes {len(expected)} inputs, {len(inputs)} were given")
        for tensor, value in zip(expected, inputs):
            if value.shape != tensor.shape or value.dtype != np.dtype(tensor.dtype):
                raise DeviceError(f"input {tensor.name!r} is {tensor.dtype} {tensor.shape}, not {_kind(value)}")
        return {tensor.storage: value for tensor, value in zip(expected, inputs)}

    def _product(
        self, step: CoreStep, driver: Driver, tensor: np.ndarray, core: Simulation, timeout_s: float
    ) -> np.ndarray:
        product, image = step.product, to_image(tensor, step.layout)
        if image.shape != product.geometry.image or image.dtype != np.dtype(product.dtype):
            raise DeviceError(f"{step.label} takes {product.dtype} {product.geometry.image}, not {_kind(image)}")
        jobs = driver.jobs(image)
        results = core.run(jobs, timeout_s=timeout_s)
        for job, result in zip(jobs, results, strict=True):
            expected = cycles(job.shape, self.program.array)
            if result.cycles != expected:
                raise DeviceError(f"{step.label}: the core took {result.cycles} cycles, and its law says {expected}")
            self.simulated_cycles += result.cycles
        return from_image(driver.collect([result.values for result in results]), step.layout, step.shape)


def _on_cpu(step: HostStep, session: Any, tensors: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that a kernel of the CPU makes, by storage."""
    try:
        given = dict(zip((value.name for value in session.get_inputs()), tensors))
        return dict(zip(step.targets, map(np.asarray, session.run(None, given))))
    except Exception as error:  # onnxruntime raises a dozen classes of its own, all meaning the same here
        raise DeviceError(f"{step.label} cannot be computed: {error}") from error


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def to_image(tensor: np.ndarray, layout: Layout) -> np.ndarray:
    """A tensor as the core takes it: images, height, width, channels."""
    if layout == "matrix":
        return tensor.reshape(-1, 1, 1, tensor.shape[-1])
    last = np.moveaxis(tensor, 1, -1)
    return last if layout == "image" else last[:, None]


def from_image(image: np.ndarray, layout: Layout, shape: Sequence[int]) -> np.ndarray:
    """What `to_image` made, as the CPU holds it."""
    if layout == "matrix":
        return image.reshape(shape)
    first = np.moveaxis(image, -1, 1)
    return np.ascontiguousarray(first).reshape(shape)


class VerilatorBoard:
    """An open session with a simulated core; its process starts with the first outputs that are asked for."""

    def __init__(self, device: Device) -> None:
        self._device, self._priced = device, SimulatedBoard(device)
        self._core: tuple[Array, Simulation] | None = None
        self._loaded: tuple[tuple[str, int], LoadedProgram] | None = None
        self._closed = False

    def facts(self) -> Mapping[str, Any]:
        return self._priced.facts()

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        """Nothing to prepare."""

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        return self._priced.run(artifact, readings, timeout_s)

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Loop:
        """Raises DeviceUnavailable: there is nothing that a meter could be beside."""
        return self._priced.loop(artifact, seconds, timeout_s)

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        """Raises DeviceError for a program that is none, BuildError where Verilator is not installed."""
        if self._closed:
            raise DeviceUnavailable("the board is closed")
        program = self._load(artifact)
        core = self._simulation(program.program.array)
        try:
            return program.outputs(inputs, core, monotonic() + timeout_s)
        except (DeviceError, DataError) as error:
            self._stop()  # what is left of a job in the core must not meet the next one
            raise error if isinstance(error, DeviceError) else DeviceError(str(error)) from error

    def health(self) -> Health:
        return self._priced.health()

    def close(self) -> None:
        self._closed, self._loaded = True, None
        self._stop()
        self._priced.close()

    def _load(self, artifact: Artifact) -> LoadedProgram:
        folder = Path(artifact.path)
        try:
            key = (str(folder.resolve()), (folder / DESCRIPTION).stat().st_mtime_ns)
            if self._loaded is None or self._loaded[0] != key:
                self._loaded = (key, LoadedProgram(read_program(folder)))
        except OSError as error:
            raise DeviceError(f"there is no artifact at {folder}") from error
        except DataError as error:
            raise DeviceError(str(error)) from error
        return self._loaded[1]

    def _simulation(self, array: Array) -> Simulation:
        if self._core is None or self._core[0] != array:
            self._stop()
            simulator(array)  # built ahead, which takes up to a minute once, and no run's time
            self._core = (array, Simulation(array))
        return self._core[1]

    def _stop(self) -> None:
        if self._core is not None:
            core, self._core = self._core[1], None
            core.close()


class VerilatorRunner:
    """Opens FPGA devices, which are simulated."""

    name = "verilator"
    remote = False

    def places(self, device: Device) -> tuple[str, ...]:
        return (PLACE,)

    def open(self, device: Device, place: str | None = None) -> VerilatorBoard:
        if place not in (None, PLACE):
            raise DeviceUnavailable(f"there is no board {place!r} of {device.name}, only {PLACE!r}")
        return VerilatorBoard(device)


def _session(step: HostStep) -> Any:
    try:
        session = open_session(step.network, {"threads": 1, "graph_optimization": "none"})
    except Exception as error:  # onnxruntime raises a dozen classes of its own, all meaning the same here
        raise DeviceError(f"{step.label} is no network that onnxruntime runs: {error}") from error
    if len(session.get_inputs()) != len(step.sources) or len(session.get_outputs()) != len(step.targets):
        raise DeviceError(f"{step.label} is a network of other inputs and outputs than its step")
    return session
