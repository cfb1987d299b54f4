"""Sums, products, clamps and activations of 8-bit tensors; the softmax too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwnas.graph.quantised import bounds_of
from hwnas.graph.tflite.emission import HIGH, LOW, NONE, RELU, RELU6, Emission, Step, stored_axis
from hwnas.graph.tflite.flat import Scale

UNIT = Scale.of(1 / 256, -128)
"""What TFLite prescribes for results of 0 to 1."""
BOTH_SIDES = Scale.of(1 / 128, 0)
"""What TFLite prescribes for results of -1 to 1."""


def binary(operator: str) -> Callable[[Emission, Step], None]:
    """An operator of two operands, broadcast as ONNX does."""

    def emit(e: Emission, step: Step) -> None:
        rank = len(step.group.result.shape)
        if any(len(a.shape) != rank for a in step.group.activations):
            raise step.refusal("it broadcasts a computed tensor to another rank")
        sources = [e.source(step, k) for k in range(2)]
        e.clamped(
            step,
            lambda result, activation: e.file.call(
                operator, sources, result, f"{operator.capitalize()}Options", FusedActivationFunction=activation
            ),
        )

    return emit


def clamp(e: Emission, step: Step) -> None:
    """A Relu or Clip that stands alone."""
    bounds = bounds_of(e.graph, step.group.operator)
    if bounds is None:
        raise step.refusal("its bounds are not constant")
    source = e.source(step)
    scale = e.scale(step.result)
    reals = [float(np.clip(b / float(scale.scales[0]), -1e6, 1e6)) for b in bounds]
    low, high = (int(np.clip(np.rint(real) + int(scale.zeros[0]), LOW, HIGH)) for real in reals)
    if bounds[0] == 0 and high == HIGH:
        e.file.call("RELU", [source], step.result)
    elif bounds == (0.0, 6.0):
        e.file.call("RELU6", [source], step.result)
    elif (low, high) == (LOW, HIGH):
        e.requantised(source, step.result)
    else:
        e.between(e.at_scale(source, scale), step.result, low, high)


def hard_sigmoid(e: Emission, step: Step) -> None:
    """max(0, min(1, alpha x + beta)) as alpha times max(0, min(1 / alpha, x + beta / alpha)).

    The inner sum is written in steps of the result's divided by alpha, so that its integers are the result's, and the
    product with alpha rounds nothing.
    """
    attributes = step.group.attributes
    alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))  # type: ignore[arg-type]
    if not alpha > 0:
        raise step.refusal(f"its slope (alpha) is {alpha:g}; only positive ones are written")
    source, scale = e.source(step), e.scale(step.result)
    wide = Scale((scale.scales / np.float32(alpha)).astype(np.float32), scale.zeros)
    ones = (1,) * len(e.shape(source))
    inner = e.like(step.result, "sum", scale=wide)
    offset = Scale.of(abs(beta / alpha) / HIGH or 1.0, 0)
    shift = e.stored(f"plus_{beta / alpha:g}", np.full(ones, int(np.sign(beta)) * HIGH, np.int8), offset)
    zero = int(scale.zeros[0])
    top = min(HIGH, int(np.rint(1 / float(scale.scales[0]))) + zero)
    activation = RELU if top == HIGH else RELU6 if round(1 / alpha, 5) == 6 else NONE
    total = inner if activation != NONE else e.like(inner, "unclamped")
    e.file.call("ADD", [source, shift], total, "AddOptions", FusedActivationFunction=activation)
    if activation == NONE:
        e.between(total, inner, zero, top)
    slope = e.stored(f"times_{alpha:g}", np.full(ones, HIGH, np.int8), Scale.of(alpha / HIGH, 0))
    e.clamped(
        step,
        lambda result, code: e.file.call("MUL", [inner, slope], result, "MulOptions", FusedActivationFunction=code),
    )


def hard_swish(e: Emission, step: Step) -> None:
    """HARD_SWISH."""
    source = e.source(step)
    e.clamped(step, lambda result, _: e.file.call("HARD_SWISH", [source], result, "HardSwishOptions"), fuses=False)


def leaky_relu(e: Emission, step: Step) -> None:
    """LEAKY_RELU."""
    source, slope = e.source(step), float(step.group.attributes.get("alpha", 0.01))  # type: ignore[arg-type]
    e.clamped(
        step,
        lambda result, _: e.file.call("LEAKY_RELU", [source], result, "LeakyReluOptions", Alpha=slope),
        fuses=False,
    )


def bounded(operator: str, scale: Scale, options: str | None = None) -> Callable[[Emission, Step], None]:
    """An operator whose result has a scale that TFLite prescribes; what the network wants instead follows behind it."""

    def emit(e: Emission, step: Step) -> None:
        source = e.source(step)
        if operator == "SOFTMAX":
            rank = len(e.shape(source))
            axis = int(step.group.attributes.get("axis", rank - 1))  # type: ignore[arg-type]
            if stored_axis(axis, rank) != rank - 1:
                raise step.refusal(f"its axis {axis} is not the last one in TFLite")
        fields = {"Beta": 1.0} if operator == "SOFTMAX" else {}

        def write(result: int, _: int) -> None:
            if e.scale(result).equals(scale):
                e.file.call(operator, [source], result, options, **fields)
                return
            e.file.call(operator, [source], raw := e.like(result, "prescribed", scale=scale), options, **fields)
            e.requantised(raw, result)

        e.clamped(step, write, fuses=False)

    return emit


def change_of_grid(e: Emission, step: Step) -> None:
    """The same reals on another grid."""
    e.requantised(e.source(step), step.result)
