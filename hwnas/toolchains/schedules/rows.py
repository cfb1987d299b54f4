"""Normalisations and softmaxes: several passes over a row that stays in cache, each in whole vectors.

A softmax over an axis that is not the last runs its passes over vectors of the axes behind it (`generic`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from hwnas.toolchains.schedules.geometry import is_fp32, shape_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import call
from hwnas.toolchains.schedules.reductions import reducer, row_total, schedule_rows


def softmax(source: Any, axis: int, lanes: int, log: bool) -> Any:
    """TE of softmax or log-softmax over one axis, shifted by the row's maximum."""
    from tvm import te, tirx

    shape = shape_of(source)
    rows = tuple(size for k, size in enumerate(shape) if k != axis)

    def place(index: Sequence[Any], k: Any) -> tuple[Any, ...]:
        return (*index[:axis], k, *index[axis:])

    def row(index: Sequence[Any]) -> tuple[Any, ...]:
        return (*index[:axis], *index[axis + 1 :])

    def total(value: Callable[[Sequence[Any], Any], Any], kind: str) -> Any:
        if prod(shape[axis + 1 :]) == 1:
            return row_total(rows, shape[axis], value, kind, lanes, kind)
        k = te.reduce_axis((0, shape[axis]), "k")
        return te.compute(rows, lambda *index: reducer(kind)(value(index, k), axis=[k]), name=f"hw_pad_{kind}")

    own = "hw_row" if prod(shape[axis + 1 :]) == 1 else "hw_pad"
    most = total(lambda index, k: source[place(index, k)], "max")
    if log:
        weight = total(lambda index, k: tirx.exp(source[place(index, k)] - most[tuple(index)]), "sum")
        shift = te.compute(rows, lambda *index: tirx.log(weight[index]), name=f"{own}_shift")
        return te.compute(shape, lambda *index: source[index] - most[row(index)] - shift[row(index)], name="hw_out")
    power = te.compute(shape, lambda *index: tirx.exp(source[index] - most[row(index)]), name=f"{own}_exp")
    weight = total(lambda index, k: power[place(index, k)], "sum")
    share = te.compute(rows, lambda *index: tirx.const(1.0, "float32") / weight[index], name=f"{own}_share")
    return te.compute(shape, lambda *index: power[index] * share[row(index)], name="hw_out")


def normalised(
    source: Any, *affine: Any, rows: tuple[int, ...], epsilon: float, centred: bool, groups: int, lanes: int
) -> Any:
    """TE of (x - mean) / sqrt(variance + epsilon) x scale + shift over the axes behind `rows`.

    `affine`: scale and, if any, shift, of those axes' shape, or (with `groups`) one for each channel, where the rows are
    `batch x groups` and the first axis behind them counts the channels of a group. Without `centred` the mean is taken
    for 0 (root mean square).
    """
    from tvm import te, tirx

    shape = shape_of(source)
    rank, inner = len(rows), shape[len(rows) :]
    share = tirx.const(1.0 / prod(inner), "float32")

    def element(index: Sequence[Any], k: Any) -> Any:
        places = []
        for size in reversed(inner[1:]):
            places.append(k % size)
            k = k // size
        return source[(*index, k, *places[::-1])]

    if centred:
        total = row_total(rows, prod(inner), element, "sum", lanes, "sum")
        mean = te.compute(rows, lambda *index: total[index] * share, name="hw_row_mean")

    def off(index: Sequence[Any], value: Any) -> Any:
        return value - mean[tuple(index)] if centred else value

    def square(index: Sequence[Any], k: Any) -> Any:
        return off(index, element(index, k)) * off(index, element(index, k))

    squares = row_total(rows, prod(inner), square, "sum", lanes, "square")
    scale = te.compute(
        rows,
        lambda *index: tirx.const(1.0, "float32") / tirx.sqrt(squares[index] * share + tirx.const(epsilon, "float32")),
        name="hw_row_scale",
    )

    def result(*index: Any) -> Any:
        own = (index[rank - 1] * inner[0] + index[rank],) if groups else index[rank:]
        value = off(index[:rank], source[index]) * scale[index[:rank]] * affine[0][own]
        return value + affine[1][own] if len(affine) > 1 else value

    return te.compute(shape, result, name="hw_out")


def legal_softmax(log: bool) -> Callable[[Isa], Any]:
    """The legalisation of an fp32 softmax or log-softmax; None for other types."""

    def make(isa: Isa) -> Any:
        def legalise(builder: Any, operator: Any) -> Any:
            (source,) = operator.args
            shape = shape_of(source)
            if not is_fp32(source) or 0 in shape or not shape:
                return None
            axis = int(operator.attrs.axis) % len(shape)
            return call(builder, "hw_softmax", softmax, source, axis=axis, lanes=isa.lanes, log=log)

        return legalise

    return make


def legal_layer_norm(isa: Isa) -> Any:
    """The legalisation of an fp32 layer norm (or, of two operands, RMS norm) over the last axes; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        source, *affine = operator.args
        shape = shape_of(source)
        axes = sorted(int(axis) % len(shape) for axis in operator.attrs.axes)
        if not is_fp32(source) or 0 in shape or axes != list(range(axes[0], len(shape))):
            return None
        if any(shape_of(value) != shape[axes[0] :] for value in affine):
            return None
        return call(
            builder, "hw_norm", normalised, source, *affine, rows=shape[: axes[0]],
            epsilon=float(operator.attrs.epsilon), centred=len(affine) == 2, groups=0, lanes=isa.lanes,
        )  # fmt: skip

    return legalise


def legal_group_norm(isa: Isa) -> Any:
    """The legalisation of an fp32 group or instance norm, channels first; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        from tvm import topi

        source, *affine = operator.args
        shape = shape_of(source)
        if not is_fp32(source) or 0 in shape or len(shape) < 3:
            return None
        axes = sorted(int(axis) % len(shape) for axis in operator.attrs.axes)
        if int(operator.attrs.channel_axis) % len(shape) != 1 or axes != list(range(2, len(shape))):
            return None
        if any(shape_of(value) != (shape[1],) for value in affine):
            return None
        groups = int(getattr(operator.attrs, "num_groups", shape[1]))
        view = (shape[0], groups, shape[1] // groups, prod(shape[2:]))
        grouped = builder.emit(builder.call_te(topi.reshape, source, view, primfunc_name_hint="reshape"))
        result = call(
            builder, "hw_norm", normalised, grouped, *affine, rows=view[:2], epsilon=float(operator.attrs.epsilon),
            centred=True, groups=groups, lanes=isa.lanes,
        )  # fmt: skip
        return builder.call_te(topi.reshape, builder.emit(result), shape, primfunc_name_hint="reshape")

    return legalise


LEGAL = {
    "relax.nn.softmax": legal_softmax(log=False),
    "relax.nn.log_softmax": legal_softmax(log=True),
    "relax.nn.layer_norm": legal_layer_norm,
    "relax.nn.rms_norm": legal_layer_norm,
    "relax.nn.group_norm": legal_group_norm,
    "relax.nn.instance_norm": legal_group_norm,
}
RULES = {"hw_row": schedule_rows}
