"""Support rules: what an accelerator computes, as predicates whose docstrings are both message and documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hwnas.errors import ConfigError
from hwnas.graph.quantised import Group
from hwnas.graph.view import View

Condition = Callable[[Group, View], str | None]
"""None where the condition holds for a quantised operator, else what was given, in a few words ("strides 3 x 3").

Its docstring says what has to hold ("strides are 1 or 2")."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern that an accelerator computes: any of the operators, as far as all conditions hold.

    An operator stands between DequantizeLinear and QuantizeLinear and brings its clamp (Relu, Clip) along; a bare
    change of grid is named DequantizeLinear. Operators that only reshape are named like any other. Conditions are
    asked in order until one does not hold, so a later one may rely on those before it. Raises ConfigError for a
    condition that does not say what has to hold.
    """

    name: str
    operators: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if not self.operators:
            raise ConfigError("names no operator", key=f"rule {self.name!r}")
        for condition in self.conditions:
            requirement(condition)

    def refusal(self, group: Group, graph: View) -> str | None:
        """Why the rule does not take a quantised operator that it names; None if it does."""
        for condition in self.conditions:
            given = condition(group, graph)
            if given is not None:
                return f"{self.name}: {requirement(condition)}; given {given}"
        return None


@dataclass(frozen=True, slots=True)
class Supported:
    """One line of a support table: an operator, the rule that takes it, and what has to hold."""

    operator: str
    rule: str
    conditions: tuple[str, ...]


def requirement(condition: Condition) -> str:
    """What a condition says that has to hold: its docstring in one line. Raises ConfigError where it has none."""
    text = condition.__doc__
    if not text or text == type(condition).__doc__:  # an object without one shows that of its class
        name = getattr(condition, "__name__", repr(condition))
        raise ConfigError("has no docstring, which is what users are told", key=f"condition {name}")
    return " ".join(text.split()).rstrip(".")


def support_table(rules: Iterable[Rule]) -> tuple[Supported, ...]:
    """What an accelerator supports, by operator: the lines that documentation and the command line show."""
    lines = [Supported(op, r.name, tuple(map(requirement, r.conditions))) for r in rules for op in r.operators]
    return tuple(sorted(lines, key=lambda line: (line.operator, line.rule)))


def judge(rules: Sequence[Rule], group: Group, graph: View) -> tuple[str | None, tuple[str, ...]]:
    """The first rule that takes a quantised operator, or why none does."""
    reasons = []
    for rule in rules:
        if group.op in rule.operators:
            reason = rule.refusal(group, graph)
            if reason is None:
                return rule.name, ()
            reasons.append(reason)
    if not reasons:
        known = sorted({op for rule in rules for op in rule.operators})
        reasons.append(f"no rule computes {group.op}; supported are {', '.join(known) or 'none'}")
    return None, tuple(reasons)
