"""The toolchain `vela`: a quantised network partitioned, its segments compiled for Ethos-U, priced by Vela's estimate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.core.artifact import COMPILED, TFLITE, write_artifact
from hwnas.core.device import Device
from hwnas.core.price import total_traffic, write_price
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError
from hwnas.graph.analysis import analyse
from hwnas.graph.scales import ScaleRule
from hwnas.graph.tflite import tflite_bytes, tflite_if_possible
from hwnas.toolchains.partition import Partition, Supported, partition, require_whole, support_table
from hwnas.toolchains.partition.companion import assemble
from hwnas.toolchains.vela.compiler import Compiled, compile_tflite, vela_version
from hwnas.toolchains.vela.rules import RULES
from hwnas.toolchains.vela.settings import VelaSettings, settings_of
from hwnas.units import show

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FLOAT = 1
"""onnx.TensorProto.FLOAT."""
MOST_STRIDE = 3
"""Vela takes longer strides only of convolutions without padding."""
FRAME, PER_KERNEL, PER_BYTE = 2776, 209, 1.17
"""Bytes of a compiled file: its frame, what a kernel adds to the command stream, and what a byte of constants becomes.

Fitted to 60 networks of mbconv-micro with random weights, 7 % off at most; trained weights compress a little better.
"""


class VelaToolchain:
    """Arm Ethos-U55, U65 and U85 through Vela."""

    name = "vela"
    rules = "cgen"
    uses = ("sram",)
    scales: ScaleRule = "free"  # TFLite rounds ties away, where ONNX goes to even: powers of two would meet them often

    def version(self) -> str:
        return vela_version()

    def support(self) -> tuple[Supported, ...]:
        """What the NPU computes, by operator."""
        return support_table(RULES)

    def unsupported(self, node: NodeProto) -> str | None:
        """An operator between DequantizeLinear and QuantizeLinear runs on the NPU where a support rule takes it."""
        known = {op for rule in RULES for op in rule.operators} | {"QuantizeLinear", "DequantizeLinear"}
        return None if node.op_type in known else f"no rule computes {node.op_type} on Ethos-U"

    def check(self, device: Device) -> None:
        """Raises ConfigError for options that cannot be, or that contradict the rest of the device."""
        settings_of(device)

    def flash_bytes(self, onnx: ModelProto) -> int:
        """Constants, packed with their scales, and the command stream; the file's frame counts where a network ends."""
        sums = analyse(onnx, self.rules)
        ends = any(output.type.tensor_type.elem_type == FLOAT for output in onnx.graph.output)
        return round(PER_BYTE * sums.weight_bytes + PER_KERNEL * sums.kernels + FRAME * ends)

    def partition(self, onnx: ModelProto, device: Device) -> Partition:
        """The network as it is split between the NPU and the CPU beside it. Raises UnsupportedOperator."""
        found = partition(onnx, RULES)
        if not settings_of(device).allow_cpu_fallback:
            require_whole(found)
        return found

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Compile a quantised network. Raises UnsupportedOperator, BuildError, ConfigError."""
        settings = settings_of(device)
        if device.accelerator is None:
            raise ConfigError(f"{device.name} has no accelerator: section", key="accelerator")
        found = self.partition(onnx, device)
        compiled = [compile_tflite(tflite_bytes(s.network, MOST_STRIDE), settings) for s in found.segments]
        _check(compiled, settings, device)
        into.mkdir(parents=True, exist_ok=True)
        for i, one in enumerate(compiled):
            name = COMPILED if len(compiled) == 1 else f"segment-{i}.tflite"
            (into / name).write_bytes(one.data)
        if (whole := tflite_if_possible(onnx)) is not None:  # what outputs are computed by; without it none are checked
            (into / TFLITE).write_bytes(whole)
        price = assemble(
            found,
            device.accelerator,
            "cycles",
            layers=[layer for one in compiled for layer in one.layers],
            cost=sum(one.cycles for one in compiled),
            macs=sum(one.macs for one in compiled),
            traffic=total_traffic(one.traffic for one in compiled),
            tool=f"Vela {self.version()}",
        )
        write_price(price, into)
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=settings.model_dump(mode="json"),
                schedule=f"vela-{settings.optimise.lower()}",
                flash_bytes=sum(len(one.data) for one in compiled),
                memory={"sram": max((one.sram_bytes for one in compiled), default=0)},
                kernels=found.kernels,
                code=tuple(sorted({layer.op for one in compiled for layer in one.layers})),
            )
        )


def _check(compiled: list[Compiled], settings: VelaSettings, device: Device) -> None:
    """Raises BuildError for what Vela left to the CPU, and for a network that needs more SRAM than there is."""
    for one in compiled:
        if one.cpu_operators:
            raise BuildError(
                "vela", f"Vela leaves to the CPU what the support rules take: operators {one.cpu_operators}"
            )
        if "Dedicated" not in settings.memory_mode and one.sram_bytes > settings.sram:
            needed, there = show(one.sram_bytes, "bytes"), show(settings.sram, "bytes")
            raise BuildError("vela", f"the network needs {needed} of SRAM at once, and {device.name} has {there}")
