"""The fpga toolchain: quantised ONNX to jobs of the systolic core, the rest left to the CPU beside it.

The law of the core prices what is built, so building needs no simulation, and no synthesis where the resources of an
array are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.core.artifact import write_artifact
from hwnas.core.device import Device
from hwnas.core.price import write_price
from hwnas.core.workload import Artifact
from hwnas.digest import content_id
from hwnas.errors import ConfigError, UnsupportedOperator
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import Shape
from hwnas.firmware.fpga.law import buffer_bytes, cycles
from hwnas.firmware.fpga.product import Packing, pieces
from hwnas.firmware.fpga.program import CoreStep, Program, encode, write_program
from hwnas.firmware.fpga.synthesis import resources
from hwnas.toolchains.fpga.lowering import Part, parts_of, prices_of, program_of, undivided
from hwnas.toolchains.fpga.packing import UNLIMITED
from hwnas.toolchains.fpga.pricing import port_of, summed, tool_of
from hwnas.toolchains.fpga.rules import rules
from hwnas.toolchains.fpga.settings import TOOLCHAIN, array_of, checked_options, family_of
from hwnas.toolchains.partition import Partition, Supported, partition, require_whole, support_table
from hwnas.toolchains.partition.kernels import RULES

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LOWERING = 1
"""Version of the lowering: it changes whenever jobs or prices do."""


class FpgaToolchain:
    """Products on a systolic array of our own, everything else on the CPU beside it."""

    name = TOOLCHAIN
    rules = RULES
    uses = ("sram", "dsp", "bram", "lut")

    def version(self) -> str:
        return f"fpga{LOWERING}+law-{_law()}"

    def unsupported(self, node: NodeProto) -> str | None:
        """Products of quantised networks run on the core, all other operators of the ONNX standard on the CPU."""
        if node.domain not in ("", "ai.onnx"):
            return f"domain {node.domain!r}: only operators of the ONNX standard are computed"
        return None

    def support(self) -> tuple[Supported, ...]:
        """What the core computes, by operator."""
        return support_table(rules(Array()))

    def check(self, device: Device) -> None:
        """Raises ConfigError for options that cannot be, and for an array that cannot."""
        array_of(device)

    def resources(self, device: Device) -> Mapping[str, float]:
        """LUT, DSP and block RAM of the device's array, the same for every network.

        Raises ConfigError for an array that cannot be, BuildError where yosys has to count it and is not installed.
        """
        counted = resources(array_of(device), family_of(device))
        return {"dsp": counted.dsp, "bram": counted.bram, "lut": counted.lut}

    def flash_bytes(self, onnx: ModelProto) -> int:
        """What is deployed of a network (or of a block of one): weights, jobs and the networks of CPU kernels.

        As for the default array: others differ by the few digits of their packings.
        """
        graph, parts = undivided(onnx, Array())
        return len(encode(program_of(graph, parts, Array(), UNLIMITED)))

    def partition(self, onnx: ModelProto, device: Device) -> Partition:
        """The network divided between core and CPU.

        Raises ConfigError for options, UnsupportedOperator for what the core does not compute where the CPU may not.
        """
        divided = partition(onnx, rules(array_of(device)))
        if not checked_options(device)["allow_cpu_fallback"]:
            require_whole(divided)
        return divided

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Lower into the folder `into`. Raises as `partition`, and UnsupportedOperator for a network of floats."""
        options, array, clock = checked_options(device), array_of(device), device.accelerator
        if clock is None or clock.cpu is None:
            raise ConfigError("the fpga toolchain needs a clock and a CPU for the rest", key="accelerator.cpu")
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        divided = self.partition(onnx, device)
        parts = parts_of(divided)
        program = program_of(divided.graph, parts, array, port_of(clock))
        into.mkdir(parents=True, exist_ok=True)
        size = write_program(program, into)
        write_price(summed(prices_of(parts, array, clock), tool_of(clock)), into)
        packings = {s.product.packing for s in program.steps if isinstance(s, CoreStep)}
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=options,
                schedule="law",
                flash_bytes=size,
                memory={**_memory(program), **asdict(resources(array, family_of(device)))},
                code=(*sorted(map(_packing_name, packings)), *_left_to_the_cpu(parts)),
            )
        )


@cache
def _law() -> str:
    """What tells one law of cycles from another: rows priced by two of them must not look alike."""
    shapes = [Shape(m, k, n, groups) for m in (1, 50) for k in (1, 90) for n, groups in ((1, 1), (70, 1), (5, 9))]
    return content_id([cycles(shape, array) for shape in shapes for array in (Array(8, 8), Array(16, 4))])[:8]


def _left_to_the_cpu(parts: Iterable[Part]) -> tuple[str, ...]:
    """The kernels that run on the CPU, each operator once with the reason; those without code run nowhere."""
    rest = (part.kernel for part in parts if part.kernel.workload is not None)
    return tuple(sorted({f"cpu {kernel.operator.op}: {reason}" for kernel in rest for reason in kernel.reasons}))


def _memory(program: Program) -> dict[str, int]:
    """Bytes on chip in the fullest job, and of weights, biases and multipliers as they are deployed."""
    products = [step.product for step in program.steps if isinstance(step, CoreStep)]
    shapes = [piece.shape(p.geometry) for p in products for piece in pieces(p.geometry, p.packing)]
    return {
        "sram": max((buffer_bytes(shape, program.array) for shape in shapes), default=0),
        "constants": sum(p.weights.nbytes + p.bias.nbytes + p.entries.nbytes for p in products),
    }


def _packing_name(packing: Packing) -> str:
    groups = f" of {packing.side} groups" if packing.side else ""
    return f"{packing.lines} x {packing.pixels} results{groups} a row"
