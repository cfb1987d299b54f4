"""Collects the families of schedules: what each makes of a Relax operator, and how its kernels are scheduled.

A family is a module with `LEGAL` (Relax operator -> maker of a legalisation that returns None for what it does not
cover) and `RULES` (prefix of the anchor block's name -> schedule rule). A kernel's anchor is its first block whose
name begins with the prefix of a rule; a kernel with no such block is scheduled block by block (`generic`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hwnas.toolchains.schedules import (
    batched,
    convolution,
    dense,
    depthwise,
    elementwise,
    grouped,
    integer_kernels,
    moves,
    pooling,
    reductions,
    rows,
)
from hwnas.toolchains.schedules.generic import schedule_any
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import block_names
from hwnas.toolchains.schedules.polynomials import expand
from hwnas.toolchains.schedules.predicates import drop_loops, uniform_predicates
from hwnas.toolchains.schedules.streams import prefetch_streams
from hwnas.toolchains.schedules.threads import with_threads

Legalise = Callable[[Any, Any], Any]
Rule = Callable[[Any, Isa, Any], None]

FAMILIES: tuple[Any, ...] = (
    depthwise,
    grouped,
    convolution,
    dense,
    batched,
    pooling,
    rows,
    reductions,
    elementwise,
    moves,
    integer_kernels,
)
"""In the order in which their legalisations are asked."""


def legalisations(isa: Isa, families: Iterable[Any] = FAMILIES, failed: list[str] | None = None) -> dict[str, Legalise]:
    """For `relax.transform.LegalizeOps`: the first family that covers a call, else TVM's own.

    A legalisation that raises covers nothing; "operator: reason" goes to `failed`, while the operator is legalised.
    """
    reasons = [] if failed is None else failed
    makers: dict[str, list[Legalise]] = {}
    for family in families:
        for operator, make in family.LEGAL.items():
            makers.setdefault(operator, []).append(make(isa))
    return {operator: _first(operator, found, reasons) for operator, found in makers.items()}


def _first(operator: str, makers: list[Legalise], failed: list[str]) -> Legalise:
    import tvm

    stock = tvm.ir.Op.get(operator).get_attr("FLegalize")

    def legalise(builder: Any, call: Any) -> Any:
        for make in makers:
            try:
                legal = make(builder, call)
            except Exception as error:  # TVM raises many classes; its own form of the operator is correct and slow
                failed.append(f"{operator}: legalisation raised {_words(error)}")
                continue
            if legal is not None:
                return legal
        return stock(builder, call)

    return legalise


def scheduled(function: Any, isa: Isa, families: Iterable[Any] = FAMILIES) -> tuple[Any, str]:
    """A PrimFunc under its rule, and the reason why it is not: empty where one covers it.

    A rule that raises leaves the function as it was; the reason names the rule and its words.
    """
    import tvm

    rules = {prefix: rule for family in families for prefix, rule in family.RULES.items()}
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function}), debug_mask="none")
    prefix = ""
    try:
        prefix, anchor = _anchor(block_names(schedule), rules)
        rule: Rule = rules[prefix] if anchor else schedule_any
        rule(schedule, isa, schedule.get_sblock(anchor) if anchor else None)
        found = drop_loops(with_threads(schedule.mod["main"]))
        function, reason = prefetch_streams(uniform_predicates(found, isa.lanes)), ""
    except Exception as error:  # TVM raises many classes; what is left is a correct, slow function
        reason = f"rule {prefix or 'for any kernel'} raised {_words(error)}"
    return expand(function), reason


def _words(error: Exception) -> str:
    """Class and words of an error in a line; a ScheduleError says what it is at its end."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"


def _anchor(names: list[str], rules: dict[str, Rule]) -> tuple[str, str]:
    """The longest prefix of a rule that begins a block's name, and that block: the first one that has any."""
    for name in names:
        if found := [prefix for prefix in rules if name.startswith(prefix)]:
            return max(found, key=len), name
    return "", ""
