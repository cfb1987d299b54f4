"""Resized images: TFLite knows three ways to place pixels, ONNX many more; they are compared pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hwnas.graph.tflite.emission import Emission, Step

WAYS = ((False, False), (False, True), (True, False))
"""TFLite's ways: (align_corners, half_pixel_centers)."""
_ROUNDING: Mapping[object, Callable[[np.ndarray], np.ndarray]] = {
    b"round_prefer_floor": lambda x: np.ceil(x - 0.5),
    b"round_prefer_ceil": lambda x: np.floor(x + 0.5),
    b"floor": np.floor,
    b"ceil": np.ceil,
}


def resize(e: Emission, step: Step) -> None:
    """Nearest or bilinear, where one of TFLite's ways takes the pixels that the network's way takes."""
    group = step.group
    before, after = group.activations[0].shape, group.result.shape
    mode = group.attributes.get("mode", b"nearest")
    if len(before) != 4 or before[:2] != after[:2] or mode not in (b"nearest", b"linear"):
        raise step.refusal("only height and width of images are resized, by nearest or linear interpolation")
    if any(group.attributes.get(name, plain) != plain for name, plain in _PLAIN.items()):
        raise step.refusal("antialias, exclude_outside and keep_aspect_ratio_policy have no counterpart in TFLite")
    way = next((way for way in WAYS if all(_same_pixels(e, step, axis, *way) for axis in (2, 3))), None)
    if way is None:
        raise step.refusal("TFLite takes its pixels from other places than these coordinates and rounding say")
    source, size = e.source(step), e.integers("size", after[2:])
    fields = {"AlignCorners": way[0], "HalfPixelCenters": way[1]}
    if mode == b"nearest":
        operator, options = "RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions"
        e.keeping_scale(step, source, lambda result: e.file.call(operator, [source, size], result, options, **fields))
    else:
        operator, options = "RESIZE_BILINEAR", "ResizeBilinearOptions"
        write = lambda at, result: e.file.call(operator, [at, size], result, options, **fields)  # noqa: E731
        e.averaging(step, source, write, finest=1.0)  # LiteRT's places of 10 bits are off by themselves


_PLAIN = {"antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": b"stretch"}


def _same_pixels(e: Emission, step: Step, axis: int, aligned: bool, centred: bool) -> bool:
    """Whether ONNX and a way of TFLite read the same pixels along an axis, with the same weights."""
    attributes = step.group.attributes
    n, m = step.group.activations[0].shape[axis], step.group.result.shape[axis]
    if n == m:
        return True
    ours = _places(attributes.get("coordinate_transformation_mode", b"half_pixel"), n, m, _ratio(e, step, axis))
    if ours is None:
        return False
    way = b"align_corners" if aligned else b"half_pixel" if centred else b"asymmetric"
    theirs = _places(way, n, m, n / m)
    assert theirs is not None
    if attributes.get("mode", b"nearest") == b"linear":
        return bool(np.allclose(np.clip(ours, 0, n - 1), np.clip(theirs, 0, n - 1), atol=1e-6))
    ours = _ROUNDING[attributes.get("nearest_mode", b"round_prefer_floor")](ours)
    theirs = np.floor(theirs + 0.5) if aligned or centred else np.floor(theirs)
    return np.array_equal(np.clip(ours, 0, n - 1), np.clip(theirs, 0, n - 1))


def _ratio(e: Emission, step: Step, axis: int) -> float:
    """Pixels of the operand to one of the result: from the scales where they are given, else from the sizes."""
    names = step.group.operator.inputs
    scales = e.graph.array(names[2]) if len(names) > 2 and names[2] else None
    if scales is None or scales.size == 0:
        return step.group.activations[0].shape[axis] / step.group.result.shape[axis]
    return 1 / float(scales[axis if scales.size == 4 else axis - 2])


def _places(way: object, n: int, m: int, ratio: float) -> np.ndarray | None:
    """Where each of m pixels lies among n; None for ways without a counterpart. ONNX operators, Resize."""
    y = np.arange(m, dtype=np.float64)
    if way == b"half_pixel" or (way == b"pytorch_half_pixel" and m > 1):
        return (y + 0.5) * ratio - 0.5
    if way == b"asymmetric":
        return y * ratio
    if way == b"align_corners":
        return y * (n - 1) / max(m - 1, 1)
    return np.zeros(1) if way == b"pytorch_half_pixel" else None
