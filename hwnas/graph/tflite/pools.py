"""Pools and means.

LiteRT's MEAN rounds twice, and AVERAGE_POOL_2D keeps its operand's steps. So what averages a fixed number of pixels is
written as a convolution of ones, which rounds once to any scale, and costs the same whatever the scales are.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from hwnas.graph.tflite.emission import LOW, NONE, Emission, Step
from hwnas.graph.tflite.flat import Scale
from hwnas.graph.tflite.windows import SAME, VALID, Window, padded, picked, slide, window_of

ONE = 64
"""The integer that stands for the one of a convolution of ones.

TFLite rounds a sum a first time before it shifts it right; the shift has to be long enough for that not to matter.
"""
LARGEST_WINDOW = 64
"""Height and width up to which convolutions of ones are written; accelerators know no larger ones."""


def max_pool(e: Emission, step: Step) -> None:
    """MAX_POOL_2D."""
    window = window_of(step)
    if window.dilations != (1, 1):
        raise step.refusal("TFLite pools without dilations only")
    source = e.source(step)
    padding = window.padding(e.shape(source)[1:3])

    def write(result: int) -> None:
        # what is outside the image is smaller than all within: the smallest integer does not change a maximum
        image, inner = (source, window) if padding is not None else padded(e, source, window, LOW)
        _pool(e, "MAX_POOL_2D", image, result, inner, VALID if padding is None else padding)

    e.keeping_scale(step, source, write)


def average_pool(e: Emission, step: Step) -> None:
    """Sums of windows where all have the same number of pixels, else AVERAGE_POOL_2D, which leaves pads out."""
    window = window_of(step)
    if window.dilations != (1, 1):
        raise step.refusal("TFLite pools without dilations only")
    source = e.source(step)
    if window.padded and step.group.attributes.get("count_include_pad", 0):
        source, window = padded(e, source, window)
    if not window.padded and max(window.size) <= LARGEST_WINDOW:
        _sums(e, step, source, window)
        return
    padding = window.padding(e.shape(source)[1:3])
    centred = all(s % 2 and b == a == s // 2 for s, b, a in zip(window.size, window.before, window.after))
    if padding is None and not centred:
        raise step.refusal("its pads are not those of TFLite's SAME or VALID, and it does not count them")

    def write(at: int, result: int) -> None:
        if padding is not None:
            _pool(e, "AVERAGE_POOL_2D", at, result, window, padding)
            return
        # an odd window in the midst of its pads lies as SAME puts it where it moves by one
        every = e.like(result, "every_pixel", e.shape(at), dtype=e.file.tensors[at].dtype)
        _pool(e, "AVERAGE_POOL_2D", at, every, replace(window, strides=(1, 1)), SAME)
        picked(e, every, result, window.strides)

    e.averaging(step, source, write)


def mean(e: Emission, step: Step) -> None:
    """Sums of windows where it goes over height and width of an image, else MEAN."""
    group = step.group
    source, axes = e.source(step), reduced_axes(e, step)
    before, after = group.activations[0].shape, group.result.shape
    order = (0, 2, 3, 1) if len(before) == 4 else tuple(range(len(before)))
    left = [axis for axis in order if axis not in axes]
    kept = len(after) == len(before)
    if not kept and left != sorted(left):
        raise step.refusal(f"the mean over axes {sorted(axes)} leaves TFLite's axes in another order")
    if len(before) == 4 and {*axes} <= {2, 3} and max(before[a] for a in axes) <= LARGEST_WINDOW:
        height, width = (before[a] if a in axes else 1 for a in (2, 3))
        window = Window((height, width), (1, 1), (1, 1), (0, 0), (0, 0))
        if kept:
            _sums(e, step, source, window)
        else:
            kept_shape = (before[0], *(1 if a in axes else before[a] for a in (2, 3)), before[1])
            image = e.like(step.result, "kept", kept_shape)
            _sums(e, replace(step, result=image), source, window)
            shape = e.shape(step.result)
            e.file.call("RESHAPE", [image, e.integers("shape", shape)], step.result, "ReshapeOptions", NewShape=shape)
        return
    stored = e.integers("axes", sorted(order.index(a) for a in axes))
    e.clamped(
        step,
        lambda result, _: e.file.call("MEAN", [source, stored], result, "ReducerOptions", KeepDims=kept),
        fuses=False,
    )


def reduced_axes(e: Emission, step: Step) -> tuple[int, ...]:
    """The axes of the ONNX tensor that a mean goes over. Raises UnsupportedOperator where they are not constant."""
    operator = step.group.operator
    rank = len(step.group.activations[0].shape)
    if operator.op == "GlobalAveragePool":
        return tuple(range(2, rank))
    given = operator.attributes.get("axes")
    if len(operator.inputs) > 1 and operator.inputs[1]:
        axes = e.graph.array(operator.inputs[1])
        if axes is None:
            raise step.refusal("its axes are not constant")
        given = tuple(int(a) for a in axes.reshape(-1))
    if not given and operator.attributes.get("noop_with_empty_axes", 0):
        raise step.refusal("it reduces nothing")
    return tuple(int(a) % rank for a in given) if given else tuple(range(rank))  # type: ignore[union-attr]


def _sums(e: Emission, step: Step, source: int, window: Window) -> None:
    """Averages of a window without pads, as a convolution of ones divided by their number."""
    channels, count = e.shape(source)[3], prod(window.size)
    share = Scale(np.full(channels, 1 / (ONE * count), np.float32), np.zeros(channels, np.int64), 3)
    ones = e.stored("ones", np.full((1, *window.size, channels), ONE, np.int8), share)
    bias_scale = Scale((share.scales * e.scale(source).scales[0]).astype(np.float32), share.zeros)
    bias = e.stored("no_bias", np.zeros(channels, np.int32), bias_scale)
    slide(e, step, "DEPTHWISE_CONV_2D", source, (ones, bias), window, DepthMultiplier=1)


def _pool(e: Emission, operator: str, source: int, result: int, window: Window, padding: int) -> None:
    e.file.call(
        operator, [source], result, "Pool2DOptions", Padding=padding, **window.fields,
        FilterHeight=window.size[0], FilterWidth=window.size[1], FusedActivationFunction=NONE,
    )  # fmt: skip
