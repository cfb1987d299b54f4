"""Which kernels form a segment: TVM's pattern partitioning of Relax, asked about one kernel after the other.

FuseOpsByPattern makes a composite of every kernel whose pattern matches and whose rule agrees; MergeCompositeFunctions
merges composites into the largest regions that need nothing from outside in between (Chen et al., Bring Your Own
Codegen to Deep Learning Compiler, arXiv:2105.03215).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from hwnas.errors import BuildError
from hwnas.graph.view import View
from hwnas.toolchains.partition.lowering import MAIN, MARK, Form, Lowered, lower

if TYPE_CHECKING:
    from hwnas.toolchains.partition.kernels import Placed

COMPOSITE = "accelerator.kernel"
"""Composites of one prefix are merged."""


def segments(graph: View, placed: Sequence[Placed]) -> list[list[int]]:
    """The kernels that a rule takes (indices into `placed`, which is in execution order) as segments.

    Raises BuildError for a TVM that is missing or unfit, or with its words.
    """
    taken = {k for k, kernel in enumerate(placed) if kernel.rule is not None}
    if not taken:
        return []
    _check_tvm()
    try:
        return _regions(_partitioned(lower(graph, placed), taken))
    except Exception as error:  # TVM raises many classes; what they say is what the user needs
        raise BuildError("partition", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error


@cache
def _check_tvm() -> None:
    from hwnas.toolchains.tvm import check_versions

    check_versions()


def _partitioned(lowered: Lowered, taken: Collection[int]) -> Any:
    """The module after both passes."""
    from tvm import relax

    forms = dict.fromkeys(lowered.forms[k] for k in sorted(taken))
    pattern = reduce(or_, map(_pattern, forms))
    kernels = relax.transform.FuseOpsByPattern(
        [(COMPOSITE, pattern, {}, lambda match: _accepts(match, taken, lowered))], bind_constants=False
    )
    return relax.transform.MergeCompositeFunctions()(kernels(lowered.module))


def _pattern(form: Form) -> Any:
    """The dataflow pattern of a form."""
    from tvm.relax import dpl

    if form is None:
        return dpl.wildcard()
    name, operands = form
    return dpl.is_op(name)(*map(_pattern, operands))


def _accepts(match: Any, taken: Collection[int], lowered: Lowered) -> bool:
    """Whether a match is the whole of one kernel that a rule takes, and nothing inside it is read outside."""
    from tvm.relax.backend.utils import has_leaking_intermediate_variables

    k = int(str(match.matched_expr.args[1].name).removeprefix(MARK))
    whole = len(match.matched_bindings) == lowered.bindings[k]
    return k in taken and whole and not has_leaking_intermediate_variables(match)


def _regions(module: Any) -> list[list[int]]:
    """The places of the kernels in each function that was made for the accelerator."""
    from tvm import relax

    found = []
    for binding in _bindings(module[MAIN]):
        call = binding.value
        if isinstance(call, relax.Call) and call.op in module.functions:
            region = module[call.op]
            marks = {p: str(a.name) for p, a in zip(region.params, call.args) if isinstance(a, relax.Var)}
            calls = [inner.value for inner in _bindings(region) if isinstance(inner.value, relax.Call)]
            # equal kernels share a function, and differ in the mark that they hand to it
            names = [marks.get(a, "") for c in calls for a in c.args if isinstance(a, relax.Var)]
            found.append(sorted(int(name.removeprefix(MARK)) for name in names if name.startswith(MARK)))
    return found


def _bindings(function: Any) -> list[Any]:
    return [binding for block in function.body.blocks for binding in block.bindings]
