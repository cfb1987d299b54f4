"""Arrays as text, for messages between this process and the one that runs compiled code; and as a library wants them."""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.core.artifact import INPUTS
from hwnas.errors import DeviceError

Axes = tuple[int, ...] | None
"""A permutation of dimensions, as numpy's transpose takes it; None where there is none."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What a compiled library takes and gives: shape and numpy type of each input as the library has it.

    `input_axes` and `output_axes` permute the network's tensors into the library's; outputs without one are the same.
    """

    inputs: tuple[tuple[tuple[int, ...], str], ...]
    input_axes: tuple[Axes, ...]
    output_axes: tuple[Axes, ...]

    def to_library(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The network's inputs as the library takes them."""
        pairs = zip(arrays, self.input_axes, strict=True)
        return [np.ascontiguousarray(a if axes is None else a.transpose(axes)) for a, axes in pairs]

    def to_network(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The library's outputs as the network gives them."""
        axes = (*self.output_axes, *[None] * (len(arrays) - len(self.output_axes)))
        return [a if x is None else np.ascontiguousarray(a.transpose(np.argsort(x))) for a, x in zip(arrays, axes)]


def read_interface(folder: Path) -> Interface:
    """The interface of a library in a folder. Raises DeviceError if it is not told there."""
    try:
        document = json.loads((folder / INPUTS).read_text())
        given, made = document["inputs"], document["outputs"]
        return Interface(
            tuple((tuple(int(n) for n in i["shape"]), str(np.dtype(i["dtype"]))) for i in given),
            tuple(_axes(i["axes"]) for i in given),
            tuple(_axes(o["axes"]) for o in made),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{folder / INPUTS} does not tell the inputs ({error})") from error


def _axes(value: list[int] | None) -> Axes:
    if value is None:
        return None
    if sorted(value) != list(range(len(value))):
        raise ValueError(f"{value} is no permutation")
    return tuple(value)


def encode_array(array: np.ndarray) -> str:
    """An array of any shape and plain type as base64 of its .npy form."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return b64encode(stream.getvalue()).decode()


def decode_array(text: str) -> np.ndarray:
    """The array that `encode_array` wrote."""
    return np.asarray(np.load(io.BytesIO(b64decode(text)), allow_pickle=False))


def stored_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape in memory of a tensor whose shape is ONNX's (N, C, H, W where the layout is NHWC)."""
    return (shape[0], *shape[2:], shape[1]) if layout == "NHWC" else tuple(shape)


def to_stored(array: np.ndarray, layout: str) -> np.ndarray:
    """An array as memory holds it: channels last where the layout is NHWC."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if layout == "NHWC" else array)


def from_stored(array: np.ndarray, layout: str) -> np.ndarray:
    """What `to_stored` was given."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if layout == "NHWC" else array
