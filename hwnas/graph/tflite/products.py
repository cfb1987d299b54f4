"""Convolutions and dense products: weights in TFLite's order, biases at the scale of their products."""

from __future__ import annotations

import numpy as np

from hwnas.graph.quantised import Activation, Constant
from hwnas.graph.tflite.emission import HIGH, LOW, Emission, Step
from hwnas.graph.tflite.flat import Scale
from hwnas.graph.tflite.windows import slide, window_of


def convolution(e: Emission, step: Step) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where each input channel has its own filters."""
    window = window_of(step)
    values, scales = _weights(step, 0)
    source = e.source(step)
    channels, groups = e.shape(source)[3], int(step.group.attributes.get("group", 1))  # type: ignore[arg-type]
    bias = _bias(e, step, scales)
    name = _weight(step).name
    if groups > 1 and groups == channels:
        weights = e.stored(
            name, values[:, 0].transpose(1, 2, 0)[None], Scale(scales, np.zeros(len(scales), np.int64), 3)
        )
        multiplier = len(scales) // channels
        slide(e, step, "DEPTHWISE_CONV_2D", source, (weights, bias), window, DepthMultiplier=multiplier)
        return
    weights = e.stored(name, values.transpose(0, 2, 3, 1), Scale(scales, np.zeros(len(scales), np.int64)))
    slide(e, step, "CONV_2D", source, (weights, bias), window)


def dense(e: Emission, step: Step) -> None:
    """FULLY_CONNECTED over the last axis."""
    group = step.group
    shape = group.activations[0].shape
    if len(shape) == 4:
        raise step.refusal("it multiplies a tensor of rank 4 by a matrix, whose last axis TFLite keeps elsewhere")
    if group.attributes.get("transA", 0):
        raise step.refusal("its first operand is transposed (transA)")
    if any(float(group.attributes.get(name, 1.0)) != 1.0 for name in ("alpha", "beta")):  # type: ignore[arg-type]
        raise step.refusal("it scales its operands (alpha, beta)")
    by_rows = group.op == "Gemm" and bool(group.attributes.get("transB", 0))
    values, scales = _weights(step, 0 if by_rows else 1)
    source = e.source(step)
    if source in e.flattened:  # the image was flattened as it lies: its weights follow it
        c, h, w = e.flattened[source][1:]
        values = values.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(len(values), -1)
    weights = e.stored(_weight(step).name, values, Scale(scales, np.zeros(len(scales), np.int64)))
    bias = _bias(e, step, scales)
    e.clamped(
        step,
        lambda result, activation: e.file.call(
            "FULLY_CONNECTED", [source, weights, bias], result, "FullyConnectedOptions",
            FusedActivationFunction=activation, KeepNumDims=len(group.result.shape) > 2,
        ),
    )  # fmt: skip


def _weight(step: Step) -> Constant:
    first, weight, *_ = step.group.operands
    if not isinstance(first, Activation) or not isinstance(weight, Constant) or weight.values is None:
        raise step.refusal("its weights are not constants with values")
    if weight.values.ndim < 2 or (step.group.op == "MatMul" and weight.values.ndim != 2):
        raise step.refusal(f"its weights of shape {weight.shape} are not a matrix or a filter")
    return weight


def _weights(step: Step, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights as int8 with the output channels in front, and the scale of each channel."""
    weight = _weight(step)
    assert weight.values is not None
    values = np.moveaxis(weight.values.astype(np.int64), axis, 0)
    outputs = values.shape[0]
    if weight.grid.scale.size not in (1, outputs) or weight.grid.zero.size not in (1, outputs):
        raise step.refusal(f"its weights are quantised along another axis than that of its {outputs} outputs")
    values = values - np.broadcast_to(weight.grid.zero, (outputs,)).reshape(-1, *(1,) * (values.ndim - 1))
    if values.min(initial=0) < LOW or values.max(initial=0) > HIGH:
        raise step.refusal("its weights do not fit into int8 around a zero point of 0")
    scales = np.broadcast_to(weight.grid.scale, (outputs,)).astype(np.float32)
    return values.astype(np.int8), scales


def _bias(e: Emission, step: Step, scales: np.ndarray) -> int:
    """The bias of each output channel, 0 where there is none, in steps of the products."""
    first = step.group.activations[0]
    assert first.grid is not None
    steps = (scales * first.grid.scale[0]).astype(np.float32)
    values, name = np.zeros(len(scales), np.int32), f"{_weight(step).name}/bias"
    if len(step.group.operands) > 2:
        bias = step.group.operands[2]
        if not isinstance(bias, Constant) or bias.values is None:
            raise step.refusal("its bias is not a constant with values")
        stored = bias.values.reshape(-1).astype(np.int64) - bias.grid.zero
        if not np.allclose(bias.grid.scale, steps, rtol=1e-6, atol=0):
            stored = np.rint(stored * bias.grid.scale.astype(np.float64) / steps.astype(np.float64))
        if stored.size not in (1, len(scales)) or np.abs(stored).max(initial=0) >= 2**31:
            raise step.refusal("its bias does not fit into int32 for each output channel")
        values, name = np.broadcast_to(stored, values.shape).astype(np.int32), bias.name
    return e.stored(name, values, Scale(steps, np.zeros(len(scales), np.int64)))
