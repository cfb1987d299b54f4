"""Measuring whole candidates on the device during a search: untrained weights, because time does not depend on them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.core.device import Device
from hwnas.core.interfaces import Board, Runner, SearchSpace, Toolchain
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact, Candidate
from hwnas.errors import BuildError, DeviceError, DeviceUnavailable, MeasurementInvalid
from hwnas.graph.precision import Precision
from hwnas.profiling.measure import Unfit, measure
from hwnas.profiling.subjects import untrained
from hwnas.toolchains.builder import BuildPool

if TYPE_CHECKING:
    from onnx import ModelProto


ACCELERATOR = ("sram", "dsp", "bram", "lut")
"""Uses of memory that are metrics of their own, where an artifact tells them."""
PAUSES_S = (2.0, 10.0, 30.0)
"""A device that was throttled is given these times to recover."""


class Bench:
    """A builder and an open board side by side, for networks that are measured one at a time."""

    def __init__(self, device: Device, toolchain: Toolchain, runner: Runner, place: str | None = None) -> None:
        self.device, self.toolchain = device, toolchain
        self._pool = BuildPool(toolchain.name, device, workers=1)
        self._scratch = Path(tempfile.mkdtemp(prefix="hwnas-"))
        self._built = 0
        self.board: Board = runner.open(device, place)

    def build(self, network: ModelProto, into: Path | None = None) -> Artifact:
        """Build a network, into a folder of its own unless one is named. Raises BuildError."""
        self._built += 1
        folder = into or self._scratch / str(self._built)
        result = next(self._pool.build([(network, folder)]))
        if isinstance(result, BuildError):
            raise result
        return result

    def close(self) -> None:
        self.board.close()
        self._pool.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure_candidates(
    bench: Bench, space: SearchSpace, precision: Precision = "fp32"
) -> Callable[[Candidate], Mapping[str, float]]:
    """The DeviceFunction of a bench: what a run takes (SI) and memory (bytes) of a candidate's network, measured now.

    Raises DeviceError where the network cannot be built or run.
    """

    def measured(candidate: Candidate) -> Mapping[str, float]:
        try:
            artifact = bench.build(untrained(space, candidate, precision))
        except BuildError as error:
            raise DeviceError(f"{space.encode(candidate)} cannot be built: {error.log}") from error
        try:
            bench.board.stage([artifact])
            samples = _samples(bench, artifact)
        finally:
            shutil.rmtree(artifact.path, ignore_errors=True)
        found = {"flash": artifact.flash_bytes, **{use: artifact.memory.get(use) for use in ("ram", *ACCELERATOR)}}
        run = {m: bench.device.value(samples, m) for m in (bench.device.metric, *bench.device.derived)}
        return {name: float(value) for name, value in {**run, **found}.items() if value is not None}

    return measured


def _samples(bench: Bench, artifact: Artifact) -> Samples:
    """Readings of the device's metric; a device that is not fit for a moment is asked again. Raises DeviceError."""
    for pause_s in (*PAUSES_S, None):
        try:
            return measure(bench.board, artifact, bench.device.protocol, bench.device.metric)
        except Unfit as error:
            if pause_s is None:
                raise DeviceUnavailable(f"the device cannot be measured now: {error}") from error
            time.sleep(pause_s)
        except MeasurementInvalid as error:
            raise DeviceError(f"the network cannot be measured: {error}") from error
    raise AssertionError("the last try returns or raises")
