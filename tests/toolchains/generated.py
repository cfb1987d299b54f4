"""Small QDQ networks, and generated code run beside onnxruntime; shared by the tests of cgen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hwnas.config import load_device
from hwnas.core.device import Device
from hwnas.graph.session import open_session
from hwnas.runners.generated import CgenLoaded
from hwnas.toolchains.cgen import CgenToolchain

DTYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


def host(core: str = "portable") -> Device:
    """This computer, with cgen among its toolchains, which writes code for `core`."""
    device = load_device("host")
    options = {} if core == "portable" else {"cgen": {"core": core}}
    return device.model_copy(update={"toolchains": (*device.toolchains, "cgen"), "options": options})


def run(network: ModelProto, inputs: Sequence[np.ndarray], folder: Path) -> list[np.ndarray]:
    """What the generated code computes."""
    return built(network, folder).outputs(list(inputs))


def built(network: ModelProto, folder: Path, core: str = "portable") -> CgenLoaded:
    """The generated code of a core, compiled for this computer, where intrinsics are emulated."""
    return CgenLoaded(Path(CgenToolchain().build(network, host(core), folder).path), {})


def expected(network: ModelProto, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes without optimisation."""
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    named = {i.name: x for i, x in zip(session.get_inputs(), inputs)}
    return [np.asarray(o) for o in session.run(None, named)]


class Qdq:
    """Builds a graph whose operators stand between DequantizeLinear and QuantizeLinear."""

    def __init__(self) -> None:
        self.graph = onnx.GraphProto(name="qdq")
        self._count = 0

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def constant(self, values: Any) -> str:
        name = self.fresh("c")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def input(self, shape: Sequence[int], dtype: str = "uint8") -> str:
        name = self.fresh("x")
        self.graph.input.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))
        return name

    def output(self, name: str, shape: Sequence[int], dtype: str = "uint8") -> None:
        self.graph.output.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))

    def operator(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = self.fresh("t")
        self.graph.node.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def dequantize(self, name: str, scale: Any, zero: Any, axis: int | None = None) -> str:
        more = {} if axis is None else {"axis": axis}
        return self.operator(
            "DequantizeLinear", [name, self.constant(np.asarray(scale, np.float32)), self.constant(zero)], **more
        )

    def quantize(self, name: str, scale: float, zero: np.generic) -> str:
        return self.operator("QuantizeLinear", [name, self.constant(np.float32(scale)), self.constant(zero)])

    def weights(self, rng: np.random.Generator, shape: Sequence[int], exponents: Any, axis: int = 0) -> str:
        values = rng.integers(-127, 128, shape, endpoint=False).astype(np.int8)
        scale = np.exp2(np.asarray(exponents, np.float32))
        zero = np.zeros(scale.shape, np.int8)
        return self.dequantize(self.constant(values), scale, zero, axis if scale.ndim else None)

    def network(self) -> ModelProto:
        network = helper.make_model(self.graph, opset_imports=[helper.make_opsetid("", 18)])
        network.ir_version = 10
        onnx.checker.check_model(network)
        return network
