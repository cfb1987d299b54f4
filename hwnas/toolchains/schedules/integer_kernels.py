"""Which integer kernel computes a QDQ group, and the schedule rules of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hwnas.graph.view import View
from hwnas.toolchains.schedules import integer_depthwise, integer_products, integer_tables, integer_windows
from hwnas.toolchains.schedules.integer import Kernel
from hwnas.toolchains.schedules.integer_elements import elements
from hwnas.toolchains.schedules.integer_folding import convolution, dense
from hwnas.toolchains.schedules.integer_windows import pool
from hwnas.toolchains.schedules.isa import Isa

if TYPE_CHECKING:
    from hwnas.graph.quantised import Group

LEGAL: Mapping[str, Any] = {}
RULES: Mapping[str, Callable[[Any, Isa, Any], None]] = {
    **integer_products.RULES,
    **integer_depthwise.RULES,
    **integer_tables.RULES,
    **integer_windows.RULES,
}


def kernel_for(graph: View, group: Group, isa: Isa) -> Callable[[bool], Kernel | None] | None:
    """The kernel of a group, made once it is known whether images come with channels last; None where there is none."""
    if group.op == "Conv":
        found = convolution(graph, group, isa)
    elif group.op in ("Gemm", "MatMul"):
        found = dense(graph, group, isa)
    elif group.op in ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"):
        found = pool(graph, group)
    else:
        if elements(graph, group, True) is None or elements(graph, group, False) is None:
            return None
        return lambda images: elements(graph, group, images)
    return None if found is None else lambda images: found
