"""ONNX to Relax, in the form that the schedules want."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

Converter = Callable[[Any, list[Any]], Any]
"""Makes the Relax expression of an ONNX node, from the BlockBuilder and the node's inputs."""


def import_onnx(onnx: ModelProto, converters: Mapping[str, Converter] | None = None) -> Any:
    """The IRModule of an ONNX network with its weights as constants.

    `converters` come before TVM's own, by operator type. Raises what TVM raises for operators that neither has.
    """
    found = {"Clip": _clip, **(converters or {})}
    opset = next((entry.version for entry in onnx.opset_import if entry.domain in ("", "ai.onnx")), 1)
    return _importer()(found).from_onnx(onnx.graph, opset)


def _clip(builder: Any, inputs: list[Any]) -> Any:
    """Clip as relax.maximum and minimum: TVM's importer calls TIR functions, which no pass looks into."""
    from tvm import relax

    value, low, high = [*inputs, None, None][:3]
    if low is not None:
        value = builder.normalize(relax.op.maximum(value, low))
    if high is not None:
        value = builder.normalize(relax.op.minimum(value, high))
    return value


@cache
def _importer() -> Any:
    """TVM's importer, which asks our converters first."""
    from tvm.relax.frontend.onnx import onnx_frontend

    class Importer(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
        def __init__(self, converters: Mapping[str, Converter]) -> None:
            super().__init__(None, "float32", keep_params_in_input=False, sanitize=True)
            self._converters = converters

        def _check_for_unsupported_ops(self, graph: GraphProto) -> None:
            known = type(graph)(node=[node for node in graph.node if node.op_type not in self._converters])
            super()._check_for_unsupported_ops(known)

        def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
            plain = all(attrs.get(bound) is None for bound in ("min", "max"))  # bounds as inputs, from opset 11 on
            if op_name in self._converters and plain:
                return self.bb.normalize(self._converters[op_name](self.bb, list(inputs)))
            return super()._convert_operator(op_name, inputs, attrs, opset)

    return Importer
