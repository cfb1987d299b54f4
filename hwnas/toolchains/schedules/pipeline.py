"""ONNX to scheduled TensorIR: import, layout, legalise, fuse, and one schedule rule for each fused kernel."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hwnas.toolchains.schedules.importer import import_onnx
from hwnas.toolchains.schedules.isa import Isa, isa_of
from hwnas.toolchains.schedules.layouts import Order, channels_last_network
from hwnas.toolchains.schedules.quantised import integrate
from hwnas.toolchains.schedules.rules import legalisations, scheduled

if TYPE_CHECKING:
    from onnx import ModelProto

Interface = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A module ready for `compile_module`, and what is to know about its kernels.

    `uncovered`: "kernel: reason" of each kernel without a schedule (of an operator, where its legalisation raised);
    `layout_transforms`: transposes that are left;
    `input_axes` and `output_axes`: for each parameter and result of `main` the order in which the network's axes lie
    in memory, such as (0, 2, 3, 1), None where that is the network's own.
    """

    module: Any
    isa: Isa
    kernels: tuple[str, ...]
    uncovered: tuple[str, ...]
    layout_transforms: int
    input_axes: tuple[Order | None, ...]
    output_axes: tuple[Order | None, ...]


@dataclass(frozen=True, slots=True)
class Fused:
    """A module of fused PrimFuncs that no rule has scheduled yet; fields as in `Lowered`.

    `uncovered`: "operator: reason" of each operator whose legalisation raised, so that it has TVM's own form.
    """

    module: Any
    layout_transforms: int
    input_axes: tuple[Order | None, ...]
    output_axes: tuple[Order | None, ...]
    uncovered: tuple[str, ...] = ()


def lower(onnx: ModelProto, target: Any, interface: Interface = "NCHW") -> Lowered:
    """Lower a network for a TVM target; with interface "NHWC", images enter and leave `main` channels last.

    Raises what the importer raises for operators that it does not know.
    """
    isa = isa_of(target)
    found = fused(onnx, isa, target, interface)
    module, uncovered = apply_rules(found.module, isa)
    kernels = tuple(sorted(name.name_hint for name, function in module.functions.items() if _is_kernel(function)))
    uncovered = (*found.uncovered, *uncovered)
    return Lowered(module, isa, kernels, uncovered, found.layout_transforms, found.input_axes, found.output_axes)


def fused(onnx: ModelProto, isa: Isa, target: Any, interface: Interface = "NCHW") -> Fused:
    """Import a network and lower it to fused PrimFuncs, its weights packed, none of its kernels scheduled."""
    import tvm
    from tvm import relax

    passes = relax.transform
    failed: list[str] = []
    with target:
        imported = import_onnx(*integrate(onnx, isa))
        module = passes.CanonicalizeBindings()(passes.DecomposeOpsForInference()(imported))
        laid = channels_last_network(module, interface == "NHWC")
        lowering = [
            passes.Normalize(),
            passes.CanonicalizeBindings(),
            *([passes.FoldConstant(), passes.CanonicalizeBindings()] if laid.constant_calls else []),  # takes its time
            passes.EliminateCommonSubexpr(),
            passes.DeadCodeElimination(),
            passes.LegalizeOps(legalisations(isa, failed=failed)),
            passes.DeadCodeElimination(),  # transposes that a product reads through
            passes.AnnotateTIROpPattern(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.DeadCodeElimination(),
        ]
        module = tvm.transform.Sequential(lowering)(laid.module)
    uncovered = tuple(sorted(set(failed)))
    return Fused(module, transposes(module), laid.input_axes, laid.output_axes, uncovered)


def apply_rules(module: Any, isa: Isa) -> tuple[Any, tuple[str, ...]]:
    """Schedule every kernel of a module; also "kernel: reason" for each that no rule covers."""
    uncovered = []
    module = module.clone() if hasattr(module, "clone") else module
    for name, function in list(module.functions.items()):
        if not _is_kernel(function):
            continue
        result, reason = scheduled(function.with_attr("global_symbol", "main"), isa)
        if reason:
            uncovered.append(f"{name.name_hint}: {reason}")
        else:
            result = result.with_attr("tirx.is_scheduled", True)
        module.update_func(name, result.without_attr("global_symbol"))
    return module, tuple(sorted(uncovered))


def calls_of(module: Any) -> Counter[str]:
    """How often the main function of a module calls each of its kernels, by name."""
    import tvm
    from tvm import relax

    calls: Counter[str] = Counter()

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and expression.args and isinstance(expression.args[0], tvm.ir.GlobalVar):
            calls[expression.args[0].name_hint] += 1

    relax.analysis.post_order_visit(module["main"], visit)
    return calls


def compile_module(lowered: Lowered, target: Any) -> Any:
    """The executable of a lowered module."""
    import tvm

    from hwnas.toolchains.schedules.objects import pass_options

    with tvm.transform.PassContext(opt_level=3, config=pass_options(target)):
        return tvm.compile(lowered.module, target=target)


def transposes(module: Any) -> int:
    """How many calls of `main` run a kernel that does nothing but permute dimensions."""
    from tvm import relax

    found = []

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and getattr(expression.op, "name", "") == "relax.call_tir":
            found.append(re.fullmatch(r"transpose\d*", expression.args[0].name_hint) is not None)

    relax.analysis.post_order_visit(module["main"], visit)
    return sum(found)


def _is_kernel(function: Any) -> bool:
    import tvm

    return isinstance(function, tvm.tirx.PrimFunc)
