"""Small ONNX graphs of a few operators, computed by our schedules and by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwnas.toolchains.schedules.pipeline import compile_module, lower

Array = NDArray[Any]
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; inputs and outputs are names divided by spaces."""
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def network(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 18,
) -> ModelProto:
    """A checked network with fp32 inputs."""
    graph = helper.make_graph(
        list(nodes),
        "operators",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(made)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Outcome:
    """What our kernels and onnxruntime computed, and what the build said."""

    ours: list[Array]
    reference: list[Array]
    uncovered: tuple[str, ...]
    kernels: tuple[str, ...]

    @property
    def error(self) -> float:
        """Largest difference over the largest value, of all outputs."""
        worst = 0.0
        for mine, theirs in zip(self.ours, self.reference, strict=True):
            assert mine.shape == theirs.shape
            if mine.size:
                exact = np.asarray(theirs, np.float64)
                off = np.abs(np.asarray(mine, np.float64) - exact).max()
                worst = max(worst, float(off / max(1e-30, np.abs(exact).max())))
        return worst


def target(cpu: str | None = None, threads: int = 1) -> Any:
    """The TVM target of this host, or of a lesser CPU whose code this host runs."""
    import tvm
    from tvm.target import codegen

    return tvm.target.Target({"kind": "llvm", "mcpu": cpu or codegen.llvm_get_system_cpu(), "num-cores": threads})


def computed(made: ModelProto, given: Sequence[Array], cpu: str | None = None, threads: int = 1) -> Outcome:
    """Run a network on arrays, in the order of its inputs."""
    import tvm
    from tvm import relax

    chosen = target(cpu, threads)
    lowered = lower(made, chosen)
    machine = relax.VirtualMachine(compile_module(lowered, chosen), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(array) for array in given])
    ours = [result.numpy()] if hasattr(result, "numpy") else [value.numpy() for value in result]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    reference = session.run(None, {value.name: array for value, array in zip(session.get_inputs(), given, strict=True)})
    return Outcome(ours, reference, lowered.uncovered, lowered.kernels)


def assert_same(made: ModelProto, *given: Array, cpu: str | None = None, threads: int = 1, limit: float = 1e-5) -> None:
    """Every kernel is covered, and the outputs are onnxruntime's."""
    outcome = computed(made, given, cpu, threads)
    assert outcome.uncovered == ()
    assert outcome.error <= limit
