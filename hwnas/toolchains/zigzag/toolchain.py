"""The toolchain `zigzag`: a quantised network partitioned, its convolutions and dense products priced by ZigZag.

A model of an NPU that nobody sells: there is no compiler, and nothing to deploy but the network itself; outputs are those
of its int8 TFLite form. Every kernel reads its operands from DRAM and writes its result there, and kernels do not
overlap, so that their prices add up.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.core.artifact import TFLITE, write_artifact
from hwnas.core.device import Device
from hwnas.core.price import Layer, total_traffic, write_price
from hwnas.core.workload import Artifact
from hwnas.errors import ConfigError
from hwnas.graph.analysis import analyse
from hwnas.graph.scales import ScaleRule
from hwnas.graph.tflite import tflite_if_possible
from hwnas.toolchains.partition import (
    Partition,
    Placed,
    Supported,
    partition,
    require_integers,
    require_whole,
    support_table,
)
from hwnas.toolchains.partition.companion import assemble
from hwnas.toolchains.zigzag.nest import nest_of
from hwnas.toolchains.zigzag.prices import KernelPrice, price_nests, zigzag_version
from hwnas.toolchains.zigzag.rules import RULES
from hwnas.toolchains.zigzag.settings import ZigzagSettings, settings_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


class ZigzagToolchain:
    """Generic NPUs by ZigZag's cost model (Mei et al., ZigZag, IEEE Transactions on Computers 70(8), 2021)."""

    name = "zigzag"
    rules = "cgen"
    scales: ScaleRule = "free"  # outputs come from LiteRT, as for every device that takes TFLite

    def version(self) -> str:
        return zigzag_version()

    def support(self) -> tuple[Supported, ...]:
        """What ZigZag prices, by operator."""
        return support_table(RULES)

    def unsupported(self, node: NodeProto) -> str | None:
        """None: what ZigZag does not price runs on the CPU, unless the device forbids it."""
        return None

    def check(self, device: Device) -> None:
        """Raises ConfigError for options that cannot be."""
        settings_of(device)

    def flash_bytes(self, onnx: ModelProto) -> int:
        """Constants alone: nobody compiles for a generic NPU."""
        return analyse(onnx, self.rules).weight_bytes

    def partition(self, onnx: ModelProto, device: Device) -> Partition:
        """The network as it is split between the NPU and the CPU beside it.

        Raises UnsupportedOperator for a network that is all floats, and for a CPU that may not help and would have to.
        """
        found = partition(onnx, RULES)
        require_integers(found)
        if not settings_of(device).allow_cpu_fallback:
            require_whole(found)
        return found

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Price a quantised network. Raises UnsupportedOperator, BuildError, ConfigError."""
        settings = settings_of(device)
        if device.accelerator is None:
            raise ConfigError(f"{device.name} has no accelerator: section", key="accelerator")
        found = self.partition(onnx, device)
        kernels = [kernel for segment in found.segments for kernel in segment.kernels]
        prices = _priced(kernels, settings)
        layers = [_layer(k, price, device.accelerator.clock) for k, price in zip(kernels, prices)]
        price = assemble(
            found,
            device.accelerator,
            "s",
            layers=layers,
            cost=sum(layer.cost for layer in layers),
            macs=sum(layer.macs for layer in layers),
            traffic=total_traffic(layer.traffic for layer in layers),
            tool=f"ZigZag {self.version()} ({settings.hardware})",
        )
        into.mkdir(parents=True, exist_ok=True)
        if (whole := tflite_if_possible(onnx)) is not None:  # what outputs are computed by; without it none are checked
            (into / TFLITE).write_bytes(whole)
        write_price(price, into)
        constants = self.flash_bytes(onnx)
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=settings.model_dump(mode="json"),
                schedule=f"zigzag-{settings.mapping or 'free'}",
                flash_bytes=constants,
                memory={"constants": constants},
                kernels=found.kernels,
                code=tuple(sorted({layer.op for layer in layers})),
            )
        )


def _priced(kernels: list[Placed], settings: ZigzagSettings) -> list[KernelPrice]:
    nests = []
    for kernel in kernels:
        assert kernel.group is not None, "what the accelerator computes is an integer operator"
        nests.append(nest_of(kernel.group, settings.sum_bits))
    return price_nests(nests, settings)


def _layer(kernel: Placed, price: KernelPrice, clock_hz: float) -> Layer:
    return Layer(
        name=kernel.label,
        op=kernel.operator.op,
        where="accelerator",
        cost=price.cycles / clock_hz,
        macs=price.macs,
        traffic=price.traffic,
    )
