"""How depthwise kernels cut a channel into strips: sizes of the plane of 16-bit values that they work on."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hwnas.toolchains.cgen.kernels.products import Geometry

SCRATCH_BYTES = 2048
"""A plane that is larger is cut into strips, of `LEAST_LINES` output rows at least."""
LEAST_LINES = 4


@dataclass(frozen=True, slots=True)
class Strips:
    """Values of a row of the plane (an even number), values that a row takes from the image, output rows of a strip."""

    pitch: int
    used: int
    lines: int
    scratch_bytes: int


def strips(g: Geometry) -> Strips:
    """The strips of a depthwise convolution: all of equal height but the last, in as few as the scratch allows."""
    needed = (g.out_width - 1) * g.strides[1] + (g.columns - 1) * g.dilations[1] + 1
    pitch = needed + needed % 2
    used = max(0, min(g.width, needed - g.pads[1]))

    def size(lines: int) -> int:
        return 2 * pitch * ((lines - 1) * g.strides[0] + (g.rows - 1) * g.dilations[0] + 1)

    most = max((n for n in range(1, g.out_height + 1) if size(n) <= SCRATCH_BYTES), default=1)
    lines = min(g.out_height, max(most, LEAST_LINES))
    lines = ceil(g.out_height / ceil(g.out_height / lines))
    return Strips(pitch, used, lines, size(lines))
