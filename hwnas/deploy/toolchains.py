"""Which toolchain is faster on this device: the same few networks through each, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

from hwnas.core.device import Device
from hwnas.core.interfaces import Runner, Toolchain
from hwnas.deploy.measurer import Bench
from hwnas.errors import BuildError, DeviceError, MeasurementInvalid
from hwnas.profiling.measure import measure

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Compared:
    """A toolchain's readings of the device's metric (SI), one a network, in their order; or why it has none."""

    name: str
    version: str
    schedule: str
    values: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def geometric_mean(self) -> float:
        return exp(sum(map(log, self.values)) / len(self.values)) if self.values else float("inf")


def compare_toolchains(
    device: Device, runner: Runner, toolchains: Sequence[Toolchain], networks: Sequence[ModelProto]
) -> list[Compared]:
    """Measure every network through every toolchain, fastest toolchain first. One that fails is last, with its reason."""
    found: list[Compared] = []
    for toolchain in toolchains:  # one bench at a time: a board may let in one at a time
        with Bench(device, toolchain, runner) as bench:
            schedule, values = "", []
            try:
                for network in networks:
                    artifact = bench.build(network)
                    schedule = artifact.schedule
                    value = measure(bench.board, artifact, device.protocol, device.metric).metric(device.metric)
                    assert value is not None  # or `measure` would have raised
                    values.append(value)
            except (BuildError, DeviceError, MeasurementInvalid) as error:
                found.append(Compared(toolchain.name, toolchain.version(), schedule, reason=str(error)))
            else:
                found.append(Compared(toolchain.name, toolchain.version(), schedule, tuple(values)))
    return sorted(found, key=lambda c: c.geometric_mean)
