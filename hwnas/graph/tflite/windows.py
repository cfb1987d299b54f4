"""What slides over an image: where a window lies, how TFLite says it, and convolutions, which slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.graph.quantised import Group
from hwnas.graph.tflite.emission import NONE, Emission, Step

SAME, VALID = 0, 1
"""TFLite's names for padding: the schema's Padding."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """A window over an image, everything as (height, width): its size, steps, gaps, and the pads around the image."""

    size: Pair
    strides: Pair
    dilations: Pair
    before: Pair
    after: Pair

    @property
    def padded(self) -> bool:
        return any(self.before) or any(self.after)

    def padding(self, image: Sequence[int]) -> int | None:
        """SAME or VALID where TFLite's rule says what the pads say; None otherwise."""
        if not self.padded:
            return VALID
        for k in range(2):
            reach = (self.size[k] - 1) * self.dilations[k] + 1
            total = max((-(-image[k] // self.strides[k]) - 1) * self.strides[k] + reach - image[k], 0)
            if (self.before[k], self.after[k]) != (total // 2, total - total // 2):
                return None
        return SAME

    def extent(self, image: Sequence[int]) -> Pair:
        """Height and width of what comes out."""
        total = [image[k] + self.before[k] + self.after[k] for k in range(2)]
        reach = [(self.size[k] - 1) * self.dilations[k] + 1 for k in range(2)]
        return tuple((total[k] - reach[k]) // self.strides[k] + 1 for k in range(2))  # type: ignore[return-value]

    @property
    def fields(self) -> dict[str, int]:
        """What the options of every operator with a window say of it."""
        return {"StrideH": self.strides[0], "StrideW": self.strides[1]}


def window_of(step: Step) -> Window:
    """The window of an operator over images. Raises UnsupportedOperator for a rank that is not 4, or rounding up."""
    group = step.group
    image = group.activations[0].shape
    if len(image) != 4:
        raise step.refusal(f"it slides over a tensor of rank {len(image)}; only images of rank 4 are written")
    before_and_after = _numbers(group, "pads", (0, 0, 0, 0))
    window = Window(
        _pair(group, "kernel_shape"), _pair(group, "strides"), _pair(group, "dilations"),
        before_and_after[:2], before_and_after[2:],  # type: ignore[arg-type]
    )  # fmt: skip
    if window.extent(image[2:]) != group.result.shape[2:]:
        raise step.refusal("its size is rounded up (ceil_mode), which TFLite has no window for")
    return window


def _pair(group: Group, name: str) -> Pair:
    return _numbers(group, name, (1, 1))  # type: ignore[return-value]


def _numbers(group: Group, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    given = group.attributes.get(name, default)
    return tuple(int(v) for v in given)  # type: ignore[union-attr]


def padded(e: Emission, source: int, window: Window, value: int | None = None) -> tuple[int, Window]:
    """The image with a window's pads around it and the window without them; pads are zero, or the integer `value`."""
    _, height, width, channels = e.shape(source)
    (top, left), (bottom, right) = window.before, window.after
    shape = (e.shape(source)[0], height + top + bottom, width + left + right, channels)
    amounts = e.integers("pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]]))
    result = e.like(source, "padded", shape)
    if value is None or value == int(e.scale(source).zeros[0]):
        e.file.call("PAD", [source, amounts], result, "PadOptions")
    else:
        filled = e.stored("padding", np.array([value], np.int8), e.scale(source))
        e.file.call("PADV2", [source, amounts, filled], result, "PadV2Options")
    return result, replace(window, before=(0, 0), after=(0, 0))


def coarsest(window: Window, most: int) -> Window:
    """The window with the largest strides up to `most` that its own are multiples of."""
    height, width = (max(d for d in range(1, most + 1) if s % d == 0) for s in window.strides)
    return replace(window, strides=(height, width))


def picked(e: Emission, source: int, result: int, strides: Pair) -> None:
    """Every `strides`-th pixel of an image: a pool of single pixels."""
    e.file.call(
        "MAX_POOL_2D", [source], result, "Pool2DOptions", Padding=VALID, StrideH=strides[0], StrideW=strides[1],
        FilterHeight=1, FilterWidth=1, FusedActivationFunction=NONE,
    )  # fmt: skip


def slide(
    e: Emission, step: Step, operator: str, source: int, constants: Sequence[int], window: Window, **fields: int
) -> None:
    """A convolution: pads that TFLite cannot say are written before it, strides that are too large behind it."""
    options = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions"}[operator]
    whole = window.strides
    if e.max_stride is not None:
        window = coarsest(window, e.max_stride)
    padding = window.padding(e.shape(source)[1:3])
    extent = window.extent(e.shape(source)[1:3])
    if padding is None:
        source, window = padded(e, source, window)
        padding = VALID

    def write(result: int, activation: int) -> None:
        at = result
        if window.strides != whole:
            n, *_, c = e.shape(result)
            at = e.like(result, "finer", (n, *extent, c))
        e.file.call(
            operator, [source, *constants], at, options, Padding=padding, **window.fields,
            DilationHFactor=window.dilations[0], DilationWFactor=window.dilations[1],
            FusedActivationFunction=activation, **fields,
        )  # fmt: skip
        if at != result:
            picked(e, at, result, (whole[0] // window.strides[0], whole[1] // window.strides[1]))

    e.clamped(step, write)
