"""Small search spaces that the tests of this room share: everything as in the large ones, but quick to run."""

from __future__ import annotations

from hwnas.spaces.cell import CellSpace
from hwnas.spaces.mbconv import MbconvSpace, mbconv_micro, mbconv_mobile


def small_mobile() -> MbconvSpace:
    """Both activations, all options and a head, at a tenth of the size."""
    stage = {"widths": (8, 12), "depths": (1, 2), "strides": (1, 2), "activations": ("relu6", "hardswish")}
    return mbconv_mobile(
        resolution=(20, 24),
        classes=7,
        stem={"widths": (4, 8), "kernels": (3, 5), "strides": (1, 2, 3), "activations": ("hardswish", "relu6")},
        stages=[stage, {**stage, "widths": (12, 8, 20), "expansions": (1, 3), "kernels": (3, 5, 7)}],
        head={"widths": (0, 16, 24), "activations": ("relu6", "hardswish")},
    )


def small_watch() -> MbconvSpace:
    """One-dimensional: six channels over time."""
    return MbconvSpace(resolution=(1, 64), channels=6, classes=7, stem={"kernels": (5, 9), "strides": (2, 4)})


SPACES = {
    "cell": lambda: CellSpace(resolution=8, channels=16, cells=1),
    "micro": mbconv_micro,
    "mobile": small_mobile,
    "watch": small_watch,
}
