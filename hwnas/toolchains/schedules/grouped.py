"""Grouped convolutions: each group is a dense convolution over its slice of the channels.

Groups that are narrower than a vector are merged, with zeros between them: the vectors hold the same work, but whole.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from hwnas.toolchains.schedules.convolution import LAYOUTS, convolution, copied, input_block, packed_in_order, source_of
from hwnas.toolchains.schedules.geometry import shape_of, window_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import call
from hwnas.toolchains.schedules.tiles import divisors, window_tile

if TYPE_CHECKING:
    import numpy as np


def merged(weights: np.ndarray, groups: int, lanes: int) -> np.ndarray:
    """`height x width x inputs x outputs` of all groups to `groups x height x width x inputs x outputs` of merged ones.

    As many groups become one as their outputs fill a vector; a merged group reads the inputs of all of its parts.
    """
    import numpy as np

    height, width, inputs, channels = weights.shape
    outputs = channels // groups
    count = max(part for part in divisors(groups) if part == 1 or part * outputs <= lanes)
    wide = np.zeros((groups // count, height, width, count * inputs, count * outputs), weights.dtype)
    for group in range(groups):
        part = group % count
        own = slice(part * inputs, (part + 1) * inputs), slice(part * outputs, (part + 1) * outputs)
        wide[(group // count, slice(None), slice(None), *own)] = weights[..., group * outputs : (group + 1) * outputs]
    return wide


def legal_grouped(isa: Isa) -> Any:
    """The legalisation of convolutions with several groups and constant weights; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        import numpy as np
        from tvm import relax

        image, weights = operator.args
        attrs = operator.attrs
        if attrs.data_layout not in LAYOUTS or int(attrs.groups) == 1 or not hasattr(weights, "value"):
            return None
        values = weights.value.numpy()
        if values.dtype.name != "float32":
            return None
        window = window_of(attrs, shape_of(image), values.shape[:-2])
        values = merged(values.reshape(*window.kernel, *values.shape[-2:]), int(attrs.groups), isa.lanes)
        groups, *kernel, inputs, outputs = values.shape
        steps = groups * prod(kernel) * inputs
        try:
            tile = window_tile(isa, *window.output, outputs, steps, copied(isa, window), exact=groups > 1)
        except ValueError:
            return None
        block = tile.vectors * isa.lanes
        part = input_block(isa, inputs, prod(kernel), block)
        pack = np.concatenate([packed_in_order(group, block, part) for group in values])
        base, read = source_of(builder, image, window)
        return call(
            builder, "hw_grouped", convolution, base, relax.const(pack),
            read=read, window=window, channels=groups * outputs, tile=tile, groups=groups,
        )  # fmt: skip

    return legalise


LEGAL = {"relax.nn.conv2d": legal_grouped, "relax.nn.conv1d": legal_grouped}
RULES: dict[str, Any] = {}
