"""Elementwise operators whose form in TVM does not vectorise: powers with a constant exponent, softplus.

All others are TVM's own computes. The exponential functions in them become polynomials after scheduling
(`polynomials`), the loops are those of `generic`; fused behind an anchor, they run in its registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwnas.toolchains.schedules.geometry import is_fp32, shape_of
from hwnas.toolchains.schedules.isa import Isa


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow: max(x, 0) + log(1 + exp(-|x|))."""
    from tvm import tirx

    zero, one = tirx.const(0.0, "float32"), tirx.const(1.0, "float32")
    return tirx.max(x, zero) + tirx.log(one + tirx.exp(tirx.min(x, zero) - tirx.max(x, zero)))


def power(exponent: float) -> Callable[[Any], Any] | None:
    """x ** exponent by multiplications and square roots; None for an exponent that asks for the C library."""
    from tvm import tirx

    one = tirx.const(1.0, "float32")
    simple: dict[float, Callable[[Any], Any]] = {
        0.5: lambda x: tirx.sqrt(x),
        -0.5: lambda x: one / tirx.sqrt(x),
        1.0: lambda x: x,
        2.0: lambda x: x * x,
        3.0: lambda x: x * x * x,
        4.0: lambda x: (x * x) * (x * x),
        -1.0: lambda x: one / x,
        -2.0: lambda x: one / (x * x),
    }
    return simple.get(exponent)


def _call(builder: Any, source: Any, function: Callable[[Any], Any], name: str) -> Any:
    from tvm import te

    shape = shape_of(source)

    def compute(tensor: Any) -> Any:
        return te.compute(shape, lambda *at: function(tensor[at]), name=f"T_{name}")

    return builder.call_te(compute, source, primfunc_name_hint=name)


def legal_softplus(isa: Isa) -> Any:
    """The legalisation of an fp32 softplus with beta 1; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        source = operator.args[0]
        if not is_fp32(source) or float(operator.attrs.beta) != 1.0:
            return None
        return _call(builder, source, softplus, "softplus")

    return legalise


def legal_power(isa: Isa) -> Any:
    """The legalisation of an fp32 power with one constant exponent of `power`; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        source, exponent = operator.args
        if not hasattr(exponent, "value") or not is_fp32(source):
            return None
        values = exponent.value.numpy()
        if values.size != 1 or values.ndim > len(shape_of(source)):
            return None
        function = power(float(values.reshape(-1)[0]))
        return None if function is None else _call(builder, source, function, "power")

    return legalise


LEGAL = {"relax.nn.softplus": legal_softplus, "relax.power": legal_power}
RULES: dict[str, Any] = {}
