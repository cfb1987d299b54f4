"""What moves values without computing on them: concatenation, slices, pads, transpositions, new shapes."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.graph.tflite.emission import HIGH, LOW, Emission, Step, stored_axis, stored_shape

TO_ONNX, TO_TFLITE = (0, 3, 1, 2), (0, 2, 3, 1)
"""How axes are permuted: a tensor of TFLite into ONNX's order, and back."""


def concat(e: Emission, step: Step) -> None:
    """Operands of another scale than the result's are requantised first."""
    rank = len(step.group.result.shape)
    axis = stored_axis(int(step.group.attributes["axis"]), rank)  # type: ignore[arg-type]

    def write(result: int, activation: int) -> None:
        parts = [e.at_scale(e.source(step, k), e.scale(result)) for k in range(len(step.sources))]
        options = {"Axis": axis, "FusedActivationFunction": activation}
        e.file.call("CONCATENATION", parts, result, "ConcatenationOptions", **options)

    e.clamped(step, write, fuses=False)


def transpose(e: Emission, step: Step) -> None:
    rank = len(step.group.result.shape)
    given = step.group.attributes.get("perm", tuple(reversed(range(rank))))
    order = [int(a) for a in given]  # type: ignore[union-attr]
    axes = [stored_axis(order[a], rank) for a in (TO_TFLITE if rank == 4 else range(rank))]
    source = e.source(step)
    e.keeping_scale(step, source, lambda result: _permuted(e, source, result, axes))


def pad(e: Emission, step: Step) -> None:
    """Constant pads; of 0 or of a value, which is rounded to the result's grid."""
    operator, rank = step.group.operator, len(step.group.result.shape)
    if operator.attributes.get("mode", b"constant") != b"constant":
        raise step.refusal("only pads of a constant value are written")
    amounts = constant_of(e, step, 1, "its pads")
    axes = range(rank) if len(operator.inputs) < 4 else [int(a) for a in constant_of(e, step, 3, "its axes")]
    if amounts.min(initial=0) < 0:
        raise step.refusal("it cuts (negative pads)")
    table = np.zeros((rank, 2), np.int32)
    for k, axis in enumerate(axes):
        table[stored_axis(axis, rank)] = amounts[k], amounts[k + len(amounts) // 2]
    value = 0.0
    if len(operator.inputs) > 2 and operator.inputs[2]:
        value = float(constant_of(e, step, 2, "its value")[0])

    def write(result: int, _: int) -> None:
        scale = e.scale(result)
        stored = int(np.clip(np.rint(value / float(scale.scales[0])) + int(scale.zeros[0]), LOW, HIGH))
        # on the result's grid already: the operand's might not hold the value
        sources = [e.at_scale(e.source(step), scale), e.integers("pads", table)]
        if stored == int(scale.zeros[0]):
            e.file.call("PAD", sources, result, "PadOptions")
        else:
            filled = e.stored("padding", np.array([stored], np.int8), scale)
            e.file.call("PADV2", [*sources, filled], result, "PadV2Options")

    e.clamped(step, write, fuses=False)


def cut(e: Emission, step: Step) -> None:
    """A Slice of neighbours."""
    shape = step.group.activations[0].shape
    starts, rank = constant_of(e, step, 1, "its starts"), len(shape)
    names = step.group.operator.inputs
    axes = constant_of(e, step, 3, "its axes") if len(names) > 3 and names[3] else np.arange(len(starts))
    if len(names) > 4 and names[4] and (constant_of(e, step, 4, "its steps") != 1).any():
        raise step.refusal("only slices of neighbours (steps of 1) are written")
    begin = np.zeros(rank, np.int32)
    for axis, start in zip(axes, starts):
        size = shape[axis % rank]
        begin[stored_axis(int(axis), rank)] = np.clip(start + size if start < 0 else start, 0, size)
    source = e.source(step)
    size = e.integers("size", stored_shape(step.group.result.shape))
    place = e.integers("begin", begin)
    e.keeping_scale(step, source, lambda result: e.file.call("SLICE", [source, place, size], result, "SliceOptions"))


def reshape(e: Emission, step: Step) -> None:
    """A new shape, and another grid behind it."""
    source = e.source(step)
    before, after = step.group.activations[0].shape, step.group.result.shape
    e.keeping_scale(step, source, lambda result: reshaped(e, source, result, before, after))


def reshaped(
    e: Emission, source: int, result: int, before: tuple[int, ...], after: tuple[int, ...], as_it_lies: bool = False
) -> None:
    """A tensor of ONNX shape `before` under the shape `after`: between orders of axes where images differ in them.

    With `as_it_lies` the values keep TFLite's order, and whoever reads them has to know.
    """
    if differs(before) and not as_it_lies:
        old = e.shape(source)
        _permuted(e, source, new := e.like(source, "onnx_order", [old[a] for a in TO_ONNX]), TO_ONNX)
        source = new
    target = result
    if differs(after):
        target = e.like(result, "onnx_order", after)
    shape = e.shape(target)
    e.file.call("RESHAPE", [source, e.integers("shape", shape)], target, "ReshapeOptions", NewShape=shape)
    if target != result:
        _permuted(e, target, result, TO_TFLITE)


def differs(shape: tuple[int, ...]) -> bool:
    """Whether the values of a tensor lie in another order with its channels last."""
    return len(shape) == 4 and shape[1] > 1 and prod(shape[2:]) > 1


def _permuted(e: Emission, source: int, result: int, axes: tuple[int, ...] | list[int]) -> None:
    e.file.call("TRANSPOSE", [source, e.integers("order", axes)], result, "TransposeOptions")


def constant_of(e: Emission, step: Step, position: int, what: str) -> np.ndarray:
    """The values of a constant operand, as a row. Raises UnsupportedOperator where they are computed."""
    names = step.group.operator.inputs
    values = e.graph.array(names[position]) if position < len(names) else None
    if values is None:
        raise step.refusal(f"{what} are not constant")
    return values.reshape(-1)
