"""The toolchain `edgetpu`: a quantised network as TFLite, partitioned, priced by a law, compiled where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.core.artifact import COMPILED, TFLITE, write_artifact
from hwnas.core.device import Device
from hwnas.core.price import Price, write_price
from hwnas.core.workload import Artifact
from hwnas.errors import ConfigError, UnsupportedOperator
from hwnas.graph.analysis import analyse
from hwnas.graph.scales import ScaleRule
from hwnas.graph.tflite import tflite_bytes, tflite_if_possible
from hwnas.toolchains.edgetpu.compiler import Compiled, compile_tflite, compiler_version, find_compiler
from hwnas.toolchains.edgetpu.law import HOST, SRAM, Caching, cache, layer_of, parameters_of, streaming_s, wait_s
from hwnas.toolchains.edgetpu.rules import RULES
from hwnas.toolchains.edgetpu.settings import EdgeTpuSettings, settings_of
from hwnas.toolchains.edgetpu.verdict import rules_of_compiler
from hwnas.toolchains.partition import (
    Partition,
    Segment,
    Supported,
    partition,
    require_integers,
    require_whole,
    support_table,
)
from hwnas.toolchains.partition.companion import assemble

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FLOAT = 1
"""onnx.TensorProto.FLOAT."""
LAW = "1"
"""Changes with whatever changes a price."""
LOG = "edgetpu_compiler.log"
"""The compiler's words, beside what it compiled."""
FRAME = 364
"""Bytes that a TFLite file has beside its tensors and operators; those of blocks add up to a network's within 0.1 %."""
PER_KERNEL, PER_BYTE = 400, 1.06
"""For blocks that are no networks of their own: what a kernel and a byte of constants add."""


class EdgeTpuToolchain:
    """Google's Edge TPU, by law and by compiler."""

    name = "edgetpu"
    rules = "cgen"
    uses = ("sram",)
    scales: ScaleRule = (
        "free"  # LiteRT rounds ties of residual sums up and onnxruntime to even: powers of two have many
    )

    def version(self) -> str:
        """The law's version, and the compiler's where it is installed."""
        compiler = compiler_version()
        return f"law {LAW}" if compiler is None else f"law {LAW}, edgetpu_compiler {compiler}"

    def support(self) -> tuple[Supported, ...]:
        """What the Edge TPU computes, by operator."""
        return support_table(RULES)

    def unsupported(self, node: NodeProto) -> str | None:
        """None: what the Edge TPU does not compute runs on the CPU, unless the device forbids it."""
        return None

    def check(self, device: Device) -> None:
        """Raises ConfigError for options that cannot be."""
        settings_of(device)

    def flash_bytes(self, onnx: ModelProto) -> int:
        """Size of the TFLite file of a network, or what a block adds to it."""
        ends = any(output.type.tensor_type.elem_type == FLOAT for output in onnx.graph.output)
        written = tflite_if_possible(onnx)
        if written is None:
            sums = analyse(onnx, self.rules)
            return round(PER_BYTE * sums.weight_bytes + PER_KERNEL * sums.kernels + FRAME * ends)
        return len(written) - FRAME * (not ends)

    def partition(self, onnx: ModelProto, device: Device) -> Partition:
        """Segments for the Edge TPU and kernels for the CPU, as `build` prices and compiles them.

        Raises UnsupportedOperator where something is left to a CPU that may not help, BuildError, ConfigError.
        """
        return _divided(onnx, settings_of(device), tflite_if_possible(onnx))[0]

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Write and price a quantised network. Raises UnsupportedOperator, BuildError, ConfigError.

        Where TFLite has no form of an operator of the CPU's part, each segment is a file, and flash holds those and the
        constants of the CPU's kernels.

        Where the compiler is asked, what it mapped and cached replaces the support rules and the law's cache.
        """
        settings = settings_of(device)
        if device.accelerator is None:
            raise ConfigError(f"{device.name} has no accelerator: section", key="accelerator")
        whole = tflite_if_possible(onnx)
        found, compiled, subject = _divided(onnx, settings, whole)
        files = {TFLITE: whole} if whole is not None else _segment_files(found)
        into.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (into / name).write_bytes(data)
        if compiled is not None:
            (into / COMPILED).write_bytes(compiled.data)
            (into / LOG).write_text(compiled.log, encoding="utf-8")
        activations = max((analyse(s.network, self.rules).peak_activation_bytes for s in found.segments), default=0)
        price, caching = price_partition(found, device, settings, compiled, activations, self.version())
        write_price(price, into)
        deployed = sum(map(len, files.values())) if compiled is None else len(compiled.data)
        if whole is None:
            held = [s.network for s in found.segments] if subject is None else [subject]
            deployed += self._constants(onnx) - sum(map(self._constants, held))
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=settings.model_dump(mode="json"),
                schedule="edgetpu-law" if compiled is None else "edgetpu-compiler",
                flash_bytes=deployed,
                memory={"sram": activations, "constants": caching.cached + caching.streamed},
                kernels=found.kernels,
                code=tuple(sorted({layer.op for layer in price.layers if layer.where == "accelerator"})),
            )
        )

    def _constants(self, onnx: ModelProto) -> int:
        return analyse(onnx, self.rules).weight_bytes


def _divided(
    onnx: ModelProto, settings: EdgeTpuSettings, whole: bytes | None
) -> tuple[Partition, Compiled | None, ModelProto | None]:
    """The partition by the support rules, or by the compiler where it is asked, with what it compiled.

    `whole` is the network's TFLite file. Raises UnsupportedOperator for a network that is all floats.
    """
    found = partition(onnx, RULES, prefix_only=settings.subgraphs == "one")
    require_integers(found)
    if not settings.allow_cpu_fallback:
        require_whole(found)
    if not _asks_compiler(settings) or not found.segments:
        return found, None, None
    # TFLite may lack an operator of the CPU's part: then the part before it is compiled alone
    subject = onnx if whole is not None else found.segments[0].network
    compiled = compile_tflite(whole or tflite_bytes(subject), settings.subgraphs)
    found = _as_compiled(onnx, subject, compiled)
    if not settings.allow_cpu_fallback:
        require_whole(found)
    return found, compiled, subject


def price_partition(
    found: Partition,
    device: Device,
    settings: EdgeTpuSettings,
    compiled: Compiled | None,
    activations: int,
    version: str,
) -> tuple[Price, Caching]:
    """The price of a partition, and where its parameters lie."""
    assert device.accelerator is not None
    law = settings.law
    layers = [layer_of(kernel, law) for segment in found.segments for kernel in segment.kernels]
    parameters = sum(parameters_of(segment.kernels) for segment in found.segments)
    caching = cache(parameters, activations, law)
    if compiled is not None:
        caching = Caching(compiled.report.cached, compiled.report.streamed)
    on_chip = sum(layer.traffic[SRAM] for layer in layers)
    price = assemble(
        found,
        device.accelerator,
        "s",
        layers=layers,
        cost=sum(layer.cost for layer in layers) + streaming_s(caching, law),
        macs=sum(layer.macs for layer in layers),
        traffic={SRAM: on_chip, HOST: float(caching.streamed + sum(c.bytes for c in found.crossings))},
        tool=f"Edge TPU {version} ({'compiled' if compiled is not None else 'not compiled'})",
    )
    waiting = 0.0
    if found.crossings:  # a block alone, and what only the CPU computes, wait for no result
        runs = len(found.segments)
        waiting = runs * wait_s((price.parts["accelerator"] + price.parts["transfer"]) / runs, law)
    parts = {**price.parts, "transfer": price.parts["transfer"] + waiting}
    return price.model_copy(update={"parts": parts}), caching


def _asks_compiler(settings: EdgeTpuSettings) -> bool:
    return settings.compiler == "required" or (settings.compiler == "if installed" and find_compiler() is not None)


def _as_compiled(onnx: ModelProto, subject: ModelProto, compiled: Compiled) -> Partition:
    """The partition that the compiler made of a network."""
    one = compiled.report.subgraphs <= 1
    judged = partition(subject, RULES)  # with the rule that takes each kernel, wherever it stands
    kernels = [k for s in judged.stages for k in (s.kernels if isinstance(s, Segment) else (s.kernel,))]
    rules = rules_of_compiler(subject, judged.graph, kernels, compiled.report)
    return partition(onnx, rules, prefix_only=one)


def _segment_files(found: Partition) -> dict[str, bytes]:
    """The segments as TFLite, by the names of their files. Raises UnsupportedOperator for one that has no such form."""
    files: dict[str, bytes] = {}
    for segment in found.segments:
        try:
            files[f"segment-{segment.index}.tflite"] = tflite_bytes(segment.network)
        except UnsupportedOperator as error:
            raise UnsupportedOperator(
                error.node, f"segment {segment.index} has no TFLite form: {error.reason}"
            ) from None
    return files
