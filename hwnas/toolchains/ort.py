"""The onnxruntime toolchain: the network stays ONNX, and onnxruntime optimises it when it is loaded.

The artifact is the ONNX file with the session options it is to be loaded with (threads, graph optimisation level).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.core.artifact import NETWORK, write_artifact
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.session import LEVELS, open_session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

DOMAINS = ("", "ai.onnx", "com.microsoft")


class OrtToolchain:
    """onnxruntime on the CPU."""

    name = "ort"
    rules = "ort"

    def version(self) -> str:
        return version("onnxruntime")

    def unsupported(self, node: NodeProto) -> str | None:
        """onnxruntime runs the operators of the ONNX standard and its own com.microsoft domain."""
        if node.domain not in DOMAINS:
            return f"domain {node.domain!r}: onnxruntime runs the ONNX standard and com.microsoft only"
        return None

    def flash_bytes(self, onnx: ModelProto) -> int:
        """The ONNX file is what is deployed, so its size is the answer (the blocks of a network add up to a little more)."""
        return int(onnx.ByteSize())

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Write the network with its options. Raises UnsupportedOperator, BuildError when onnxruntime refuses it."""
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        options = {"threads": 1, "graph_optimization": "all", **device.options.get(self.name, {})}
        if options["graph_optimization"] not in LEVELS:
            raise ConfigError(
                "unknown level",
                key="options.ort.graph_optimization",
                given=options["graph_optimization"],
                allowed=LEVELS,
            )
        into.mkdir(parents=True, exist_ok=True)
        deployed = onnx.__class__()
        deployed.CopyFrom(onnx)
        del deployed.graph.value_info[:]  # shapes of inner tensors: the session infers them, flash need not hold them
        data = deployed.SerializeToString()
        try:
            open_session(data, options)
        except Exception as error:  # onnxruntime raises a dozen classes of its own, all meaning the same here
            raise BuildError("onnxruntime session", str(error)) from error
        (into / NETWORK).write_bytes(data)
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=options,
                schedule=f"ort-{options['graph_optimization']}",
                flash_bytes=len(data),
            )
        )
