"""The geometry of a window that slides over NHWC (or NWC) images, and the padded copy that its kernel reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Read = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel, stride, padding (top, left, bottom, right) and dilation over `batch` x `height` x `width` x `channels`.

    `rank` is that of the images: one with a single spatial axis (3) has height 1.
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    rank: int = 4

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.padding
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation)]
        return (
            (self.height + top + bottom - spans[0]) // self.stride[0] + 1,
            (self.width + left + right - spans[1]) // self.stride[1] + 1,
        )

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel reads exactly its own input pixel."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    def covering(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of the input that `rows` x `columns` outputs read."""
        return (
            (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1,
            (columns - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1,
        )


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Static shape of a TE tensor or a Relax expression."""
    shape = tensor.ty.shape if hasattr(tensor, "ty") and hasattr(tensor.ty, "shape") else tensor.shape
    return tuple(int(size) for size in shape)


def is_fp32(tensor: Any) -> bool:
    """Whether a Relax expression is a tensor of float32."""
    return str(tensor.ty.dtype.dtype) == "float32"


def window_of(attrs: Any, image: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window of a relax convolution's or pool's attributes over an NHWC or NWC image."""
    strides, padding, dilation = ([int(v) for v in getattr(attrs, key)] for key in ("strides", "padding", "dilation"))
    if len(image) == 3:
        batch, width, channels = image
        return Window(
            batch,
            1,
            width,
            channels,
            (1, kernel[0]),
            (1, strides[0]),
            (0, padding[0], 0, padding[1]),
            (1, dilation[0]),
            3,
        )
    batch, height, width, channels = image
    top, left, bottom, right = padding
    return Window(
        batch, height, width, channels, (kernel[0], kernel[1]), (strides[0], strides[1]), (top, left, bottom, right),
        (dilation[0], dilation[1]),
    )  # fmt: skip


def padded(image: Any, window: Window, height: int, width: int, fill: float = 0.0, read: Read | None = None) -> Any:
    """The image with its padding in place, `height` x `width` (NHWC); the image itself where nothing is to add.

    `read(image, n, i, j, c)` says how the image is read where it does not lie channels last.
    """
    from tvm import te, tirx

    top, left, *_ = window.padding
    if window.rank == 4 and not (top or left) and height <= window.height and width <= window.width:
        return image
    element = read or read_image(window)

    def value(n: Any, i: Any, j: Any, c: Any) -> Any:
        inside = tirx.all(i >= top, i < window.height + top, j >= left, j < window.width + left)
        return tirx.if_then_else(inside, element(image, n, i - top, j - left, c), tirx.const(fill, image.dtype))

    shape = (window.batch, height, width, window.channels)
    return te.compute(shape, value, name="hw_pad", attrs={"hw_image": [left, window.width]})


def padded_source(image: Any, read: Read, window: Window, rows: int, columns: int) -> Read:
    """How a kernel of `rows` x `columns` outputs reads: `source(n, i, j, c)` in the padded image, a copy if need be."""
    copy = padded(image, window, *window.covering(rows, columns), read=read)
    if copy is image:
        return lambda n, i, j, c: read(image, n, i, j, c)
    return lambda n, i, j, c: copy[n, i, j, c]


def images(window: Window, channels: int, value: Callable[..., Any]) -> Any:
    """The output block hw_out: NHWC, or NWC for a window over one axis, of `value(n, i, j, c)`."""
    from tvm import te

    height, width = window.output
    if window.rank == 3:
        return te.compute((window.batch, width, channels), lambda n, j, c: value(n, 0, j, c), name="hw_out")
    return te.compute((window.batch, height, width, channels), value, name="hw_out")


def read_image(window: Window) -> Read:
    """How a channels-last image of this window is read: `read(image, n, i, j, c)`."""
    if window.rank == 3:
        return lambda image, n, i, j, c: image[n, j, c]
    return lambda image, n, i, j, c: image[n, i, j, c]
