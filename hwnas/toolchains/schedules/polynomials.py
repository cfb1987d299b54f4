"""Exponential functions as polynomials that vectorise, in place of one call of the C library for each element.

`expand` rewrites a scheduled function, so that rules see short expressions and every fused epilogue is served. All
functions are fp32 and within 1e-6 of the true value, relatively, where that is a normal number; NaN stays NaN.
What differs from the C library: exp and sigmoid give 0 where the result is below 2.4e-38 (a denormal, mostly);
log takes a denormal argument for 0. Other functions (sin, pow, ...) stay calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EXP_LOWEST, EXP_HIGHEST = -86.6, 88.722839
"""Below, exp is given as 0, above as infinity, which it is in fp32."""
ROUND = 12582912.0
"""1.5 x 2**23: added to a number below 2**22 it leaves the nearest whole number in the low bits of the mantissa."""


def expand(function: Any) -> Any:
    """The function with its fp32 exp, log, tanh, sigmoid, erf and their kin as polynomials."""
    import tvm_ffi
    from tvm.ir import Call

    def replace(call: Any) -> Any:
        name = getattr(call.op, "name", "")
        if name not in FUNCTIONS or str(call.ty.dtype) != "float32" or len(call.args) != 1:
            return call
        return FUNCTIONS[name](call.args[0])

    return tvm_ffi.structural_map(function, (Call, replace))


def bind(value: Any, use: Callable[[Any], Any]) -> Any:
    """`use` of a value that is computed once, however often its expression names it."""
    from tvm import tirx

    name = tirx.Var("t", str(value.ty.dtype))
    return tirx.Let(name, value, use(name))


def polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    """Horner's scheme, highest power first."""
    total = _number(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _number(coefficient)
    return total


def exp(x: Any) -> Any:
    """exp(x) = 2**n exp(r), n whole, |r| <= log(2) / 2, with the minimax polynomial of Cephes' expf (Moshier)."""
    from tvm import tirx

    def scaled(x: Any) -> Any:
        return bind(x * _number(1.44269504088896341) + _number(ROUND), lambda t: from_rounded(x, t))

    def from_rounded(x: Any, t: Any) -> Any:
        n = t - _number(ROUND)
        # 2**(n-1), and once more by two at the end: n = 128 is in range, its power is not.
        power = tirx.reinterpret(
            "float32",
            tirx.shift_left(tirx.reinterpret("int32", t), tirx.const(23, "int32")) + tirx.const(126 << 23, "int32"),
        )
        rest = x - n * _number(0.693359375) - n * _number(-2.12194440e-4)
        return bind(rest, lambda r: (polynomial(r, _EXP) * r * r + r + _number(1.0)) * power * _number(2.0))

    def saturated(x: Any) -> Any:
        high = tirx.Select(x > _number(EXP_HIGHEST), _number(float("inf")), scaled(x))
        return tirx.Select(x < _number(EXP_LOWEST), _number(0.0), high)

    return bind(x, saturated)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _number(1.0) / (_number(1.0) + exp(_number(0.0) - x))


def tanh(x: Any) -> Any:
    """tanh as x P(x^2) / Q(x^2), clamped where fp32 knows no more (rational minimax of degree 13 / 6, as in Eigen)."""

    def rational(x: Any) -> Any:
        return bind(x * x, lambda s: x * polynomial(s, _TANH_P) / polynomial(s, _TANH_Q))

    return bind(x, lambda x: bind(_clamp(x, 7.90531110763549805), rational))


def erf(x: Any) -> Any:
    """The error function as x P(x^2) / Q(x^2), clamped where fp32 knows no more (rational minimax, as in Eigen)."""

    def rational(x: Any) -> Any:
        return bind(x * x, lambda s: x * polynomial(s, _ERF_P) / polynomial(s, _ERF_Q))

    return bind(x, lambda x: bind(_clamp(x, 3.832506856900711), rational))


def log(x: Any) -> Any:
    """log(x) = e log(2) + log(m), m within a factor of sqrt(2) of one, with Cephes' logf (Moshier)."""
    from tvm import tirx

    def integer(value: int) -> Any:
        return tirx.const(value, "int32")

    def of_parts(x: Any, bits: Any) -> Any:
        # Bits relative to sqrt(1/2): the exponent field then counts powers of two around one.
        exponent = tirx.shift_right(bits, integer(23))
        mantissa = tirx.reinterpret("float32", tirx.bitwise_and(bits, integer(0x7FFFFF)) + integer(0x3F3504F3))
        return bind(exponent.astype("float32"), lambda e: bind(mantissa - _number(1.0), lambda m: of_mantissa(x, e, m)))

    def of_mantissa(x: Any, e: Any, m: Any) -> Any:
        def sum_of(square: Any) -> Any:
            tail = polynomial(m, _LOG) * m * square + e * _number(-2.12194440e-4) - _number(0.5) * square
            return m + tail + e * _number(0.693359375)

        return bind(m * m, sum_of)

    def guarded(x: Any) -> Any:
        bits = tirx.reinterpret("int32", x) - integer(0x3F3504F3)
        value = bind(bits, lambda b: of_parts(x, b))
        value = tirx.Select(x < _number(1.17549435e-38), _number(float("-inf")), value)
        value = tirx.Select(x < _number(0.0), _number(float("nan")), value)
        # Infinity and NaN are neither below nor equal to themselves plus nothing else: they come back as they are.
        return tirx.Select(x <= _number(3.4028234e38), value, x)

    return bind(x, guarded)


def _number(value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, "float32")


def _clamp(x: Any, bound: float) -> Any:
    """x within +-bound; comparisons are false for NaN, which passes."""
    from tvm import tirx

    high = tirx.Select(x > _number(bound), _number(bound), x)
    return tirx.Select(x < _number(-bound), _number(-bound), high)


_EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
_TANH_P = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
    6.37261928875436e-04, 4.89352455891786e-03,
)  # fmt: skip
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_ERF_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02)  # fmt: skip
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": exp,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
    "tirx.erf": erf,
    "tirx.log": log,
}
