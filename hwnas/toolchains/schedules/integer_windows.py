"""Pools and means of 8-bit images with channels last: sums in 32 bits, largest values in 8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import gcd, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.graph.view import View
from hwnas.toolchains.schedules.geometry import Window
from hwnas.toolchains.schedules.integer import Kernel, channels_last, finish_of, reals, settled, step_of
from hwnas.toolchains.schedules.integer_products import vectorize_bytes
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import annotation, block_list, block_name, extent, spread

if TYPE_CHECKING:
    from hwnas.graph.quantised import Group


UNROLLED = 25
"""Steps of a window that are unrolled at most."""
LANES = {True: 64, False: 16}
"""Bytes of a register, and 32-bit sums: channels that a step of a pool takes at most."""


def pool(graph: View, group: Group) -> Kernel | None:
    """MaxPool, AveragePool, GlobalAveragePool and ReduceMean over height and width; None for any other."""
    from hwnas.toolchains.schedules.integer_folding import window_of

    [source] = group.operands
    if source.grid is None or source.grid.scale.size > 1 or group.result.grid is None or len(source.shape) != 4:
        return None
    attributes, image = group.attributes, channels_last(source.shape)
    counts_pads = bool(attributes.get("count_include_pad", 0))
    if len(group.operator.outputs) > 1 or (attributes.get("ceil_mode", 0) and counts_pads):
        return None
    if group.op in ("MaxPool", "AveragePool"):
        kernel = attributes["kernel_shape"]
        assert isinstance(kernel, tuple)
        window = _grown(window_of(attributes, image, tuple(int(size) for size in kernel)), group.result.shape[2:])
    else:
        if group.op == "ReduceMean" and _axes(graph, group) != [2, 3]:
            return None
        n, h, w, c = image
        window = Window(n, h, w, c, (h, w), (1, 1), (0, 0, 0, 0), (1, 1))
    return _kernel(group, window)


def _grown(window: Window, output: tuple[int, ...]) -> Window:
    """A window with as much border below and to the right as the result needs whose size was rounded up."""
    top, left, bottom, right = window.padding
    height, width = window.covering(output[0], output[1])
    bottom, right = max(bottom, height - window.height - top), max(right, width - window.width - left)
    return replace(window, padding=(top, left, bottom, right))


def _axes(graph: View, group: Group) -> list[int] | None:
    given: Any = group.operator.attributes.get("axes")
    if given is None and len(group.operator.inputs) > 1:
        given = graph.array(group.operator.inputs[1])
    return None if given is None else sorted(int(axis) % 4 for axis in given)


def _kernel(group: Group, window: Window) -> Kernel:
    grid = group.operands[0].grid
    assert grid is not None
    finish = finish_of(group)
    zero_in = int(grid.zero[0])
    low, _ = grid.limits
    largest = group.op == "MaxPool"
    counts_pads = bool(group.attributes.get("count_include_pad", 0))
    factor = np.array([float(grid.scale[0]) / step_of(group)], np.float32)
    base = np.array([zero_in, low if largest else zero_in], np.int32)
    height, width = window.output
    shape = (window.batch, height, width, window.channels)
    same = largest and factor[0] == 1 and int(finish.zero[0]) == zero_in and group.clamp is None
    same = same and finish.dtype == grid.dtype

    def compute(source: Any, base: Any, factor: Any, ends: Any, zero: Any) -> Any:
        from tvm import te

        data = _held_within(source, window) if largest and _meets_image(window) else _bordered(source, base, window)
        ry, rx = te.reduce_axis((0, window.kernel[0]), "ry"), te.reduce_axis((0, window.kernel[1]), "rx")
        (sh, sw), (dh, dw) = window.stride, window.dilation

        def taken(n: Any, i: Any, j: Any, c: Any) -> Any:
            value = data(n, i * sh + ry * dh, j * sw + rx * dw, c)
            return te.max(value, axis=[ry, rx]) if largest else te.sum(value.astype("int32"), axis=[ry, rx])

        lanes = gcd(window.channels, LANES[largest])
        found = te.compute(shape, taken, name="hw_qpool", attrs={"hw_tile": [lanes]})

        def result(n: Any, i: Any, j: Any, c: Any) -> Any:
            value = found[n, i, j, c]
            if same:
                return value
            if largest:
                return settled(reals(value, base[0]) * factor[0], finish.dtype, ends, zero)
            whole = prod(window.kernel)
            total = (value - base[0] * whole).astype("float32")
            held = whole if counts_pads or not any(window.padding) else _held(window, i, j)
            # a division, as the definition has it: a product with 1 / n would round ties to the wrong side
            mean = total / (float(held) if isinstance(held, int) else held.astype("float32"))
            return settled(mean * factor[0], finish.dtype, ends, zero)

        return te.compute(shape, result, name="hw_out")

    constants = (base, factor, finish.ends, finish.zero)
    return Kernel("hwq_maxpool" if largest else "hwq_mean", compute, constants, shape, True)


def _meets_image(window: Window) -> bool:
    """Whether a row and a column of the image are in each window, and in one piece."""
    top, left, *_ = window.padding
    ends = zip(window.output, window.stride, (top, left), window.kernel, (window.height, window.width))
    return window.dilation == (1, 1) and all(
        pad < size and (count - 1) * stride - pad < whole for count, stride, pad, size, whole in ends
    )


def _held_within(source: Any, window: Window) -> Any:
    """The image by place in the bordered image, its edges in place of the border: a maximum meets them anyway."""
    from tvm import tirx

    (top, left, *_), last = window.padding, (window.height - 1, window.width - 1)
    height, width = window.covering(*window.output)

    def inside(at: Any, before: int, last: int, covered: int) -> Any:
        at = tirx.max(at - before, 0) if before else at
        return tirx.min(at, last) if covered - 1 - before > last else at

    return lambda n, i, j, c: source[n, inside(i, top, last[0], height), inside(j, left, last[1], width), c]


def _bordered(source: Any, base: Any, window: Window) -> Any:
    """The image with its border, by place in the bordered image."""
    from tvm import te, tirx

    top, left, bottom, right = window.padding
    if not any(window.padding):
        return lambda n, i, j, c: source[n, i, j, c]
    border = base[1].astype(source.dtype)

    def place(n: Any, i: Any, j: Any, c: Any) -> Any:
        inside = tirx.all(i >= top, i < window.height + top, j >= left, j < window.width + left)
        return tirx.if_then_else(inside, source[n, i - top, j - left, c], border)

    shape = (window.batch, window.height + top + bottom, window.width + left + right, window.channels)
    copy = te.compute(shape, place, name="hw_qcopy")
    return lambda *index: copy[index]


def _held(window: Window, i: Any, j: Any) -> Any:
    """How many pixels of the image a window holds that overlaps its border."""
    from tvm import tirx

    count: Any = 1
    top, left, *_ = window.padding
    for place, stride, pad, size, step, whole in (
        (i, window.stride[0], top, window.kernel[0], window.dilation[0], window.height),
        (j, window.stride[1], left, window.kernel[1], window.dilation[1], window.width),
    ):
        first = place * stride - pad
        # taps first, first + step, ... that lie in 0..whole
        behind = tirx.min(tirx.floordiv(whole - 1 - first, step) + 1, size)
        before = tirx.max(tirx.floordiv(step - 1 - first, step), 0)
        count = count * (behind - before)
    return count


def schedule_pool(schedule: Any, isa: Isa, anchor: Any) -> None:
    """A vector of channels of one pixel stays in a register over its window."""
    (lanes,) = annotation(schedule, anchor, "hw_tile")
    result = schedule.get_sblock(block_name(schedule, block_list(schedule)[-1]))
    for block in block_list(schedule):
        if block_name(schedule, block) == "hw_qcopy":
            *outer, last = schedule.get_loops(block)
            spread(schedule, isa, outer[:2], prod(extent(schedule, loop) for loop in (*outer, last)) // 8)
            vectorize_bytes(schedule, isa, last)
    n, i, j, c, ry, rx = schedule.get_loops(anchor)
    work = prod(extent(schedule, loop) for loop in (n, i, j, c, ry, rx)) // lanes * 4
    co, ci = schedule.split(c, [None, lanes])
    schedule.reorder(n, i, j, co, ry, rx, ci)
    schedule.reverse_compute_at(result, co, preserve_unit_loops=True)
    channels = schedule.get_loops(result)[-1]
    for loop in (channels, ci):
        if extent(schedule, loop) > 1:
            schedule.vectorize(loop)
    if extent(schedule, ry) * extent(schedule, rx) <= UNROLLED:
        schedule.unroll(ry)
        schedule.unroll(rx)
    schedule.decompose_reduction(anchor, ry)
    spread(schedule, isa, [n, i], work)


RULES: Mapping[str, Callable[[Any, Isa, Any], None]] = {"hw_qpool": schedule_pool}
