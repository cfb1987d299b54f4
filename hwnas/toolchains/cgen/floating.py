"""Kernels computed in float, through the ONNX importer of TVM Relax and its fusion; QDQ groups without an integer form
too, which are dequantised, computed and quantised within the kernel.

A kernel is one fused group already, so Relax makes one PrimFunc of it as a rule; where it makes several, the kernel
calls them in order, and what passes between them lives in the workspace.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.errors import BuildError
from hwnas.graph.view import View
from hwnas.toolchains.cgen.floatpart import FloatPart
from hwnas.toolchains.cgen.lowered import Argument, Call, Lowered
from hwnas.toolchains.cgen.schedule import scheduled


def lower_float(graph: View, part: FloatPart, label: str) -> Lowered:
    """The PrimFuncs of a float part, scheduled. Raises BuildError where Relax keeps an operator that is no call."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    passes = relax.transform
    pipeline = tvm.transform.Sequential(
        [
            passes.DecomposeOpsForInference(),
            passes.CanonicalizeBindings(),
            passes.FoldConstant(),
            passes.LegalizeOps(),
            passes.AnnotateTIROpPattern(),
            passes.FoldConstant(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.RewriteDataflowReshape(),
            passes.DeadCodeElimination(),
        ]
    )
    with tvm.target.Target("c"):
        module = pipeline(from_onnx(part.network(graph), keep_params_in_input=False))
    return _Walk(module, part, label).lowered()


class _Walk:
    """Reads the calls off the main function of a fused Relax module."""

    def __init__(self, module: Any, part: FloatPart, label: str) -> None:
        self.module, self.part, self.label = module, part, label
        self.places: dict[Any, Argument] = {}
        self.calls: list[Call] = []
        self.temporaries: list[int] = []
        self.covered = True
        self._tuples: dict[Any, list[Any]] = {}

    def lowered(self) -> Lowered:
        main = self.module["main"]
        reads = len(self.part.inputs)
        for k, parameter in enumerate(main.params):
            role = Argument("read", k) if k < reads else Argument("constant", k - reads)
            self.places[parameter] = role
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        results = self._results(main.body.body, bindings)
        for binding in bindings:
            self._bind(binding.var, binding.value, results)
        written = {a.index for call in self.calls for a in call.arguments if a.role == "write"}
        if written != set(range(len(self.part.outputs))):
            raise BuildError("cgen", f"{self.label}: a result of the kernel is computed by no function")
        return Lowered(tuple(self.calls), tuple(self.temporaries), self.covered)

    def _results(self, body: Any, bindings: list[Any]) -> dict[Any, int]:
        """Which variable is which output, seen through aliases and reshapes."""
        values = {binding.var: binding.value for binding in bindings}

        def source(variable: Any) -> Any:
            while variable in values:
                value = values[variable]
                alias = self._alias(value)
                if alias is None:
                    break
                variable = alias
            return variable

        last = source(body)
        made: Any = values.get(last)
        parts = list(made.fields) if type(made).__name__ == "Tuple" else [last]
        return {source(part): k for k, part in enumerate(parts)}

    def _alias(self, value: Any) -> Any:
        from tvm import relax

        if isinstance(value, relax.Var):
            return value
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.reshape":
            return value.args[0]
        return None

    def _bind(self, variable: Any, value: Any, results: dict[Any, int]) -> None:
        from tvm import relax

        kind = type(value).__name__
        alias = self._alias(value)
        if alias is not None:
            self.places[variable] = self._place(alias)
            return
        if kind == "Tuple":
            self._tuples[variable] = list(value.fields)
            return
        if kind == "TupleGetItem":
            self.places[variable] = self._place(self._tuples[value.tuple_value][int(value.index)])
            return
        if not isinstance(value, relax.Call):
            raise BuildError("cgen", f"{self.label}: Relax left a {kind} that is no kernel call")
        name = getattr(value.op, "name", "")
        if name != "relax.call_tir":
            raise BuildError("cgen", f"{self.label}: Relax does not lower {name or kind}")
        function, arguments = value.args[0], list(value.args[1].fields)
        if not hasattr(variable.ty, "shape"):
            raise BuildError("cgen", f"{self.label}: a fused kernel with several results")
        if variable in results:
            written = Argument("write", results[variable])
        else:
            self.temporaries.append(_bytes(variable.ty))
            written = Argument("temporary", len(self.temporaries) - 1)
        self.places[variable] = written
        primitive, covered = scheduled(self.module[function])
        self.covered = self.covered and covered
        self.calls.append(Call(primitive, (*(self._place(a) for a in arguments), written)))

    def _place(self, expression: Any) -> Argument:
        if expression in self.places:
            return self.places[expression]
        if type(expression).__name__ in ("GenericConst", "Constant"):
            values = getattr(expression, "value", None)
            array = np.ascontiguousarray((values if values is not None else expression.data).numpy())
            return Argument("literal" if array.size == 1 else "own", 0, array)
        raise BuildError("cgen", f"{self.label}: Relax reads {type(expression).__name__}")


def _bytes(kind: Any) -> int:
    shape = [int(size) for size in kind.shape.values]
    dtype = str(kind.dtype)
    return int(np.prod(shape, dtype=np.int64)) * (1 if dtype == "bool" else np.dtype(dtype).itemsize)
