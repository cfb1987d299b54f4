"""The process that holds LiteRT's interpreter. Start it with `python -m hwnas.runners.litert_worker`.

It keeps the file that it loaded last. LiteRT computes on one thread with XNNPACK, its default on every processor: that
rounds halves to even as onnxruntime does, where LiteRT's own kernels round twice, and halves away from zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.processes import serve
from hwnas.runners.arrays import decode_array, encode_array, from_stored, to_stored

EIGHT_BITS = (np.uint8, np.int8)


class Interpreter:
    """A loaded TFLite file. Raises ValueError for one whose inputs or outputs are not 8 bits with one scale."""

    def __init__(self, path: str) -> None:
        from ai_edge_litert.interpreter import Interpreter as Litert

        self._litert = Litert(path, num_threads=1)
        self._litert.allocate_tensors()
        self._inputs, self._outputs = self._litert.get_input_details(), self._litert.get_output_details()
        for detail in (*self._inputs, *self._outputs):
            if detail["dtype"] not in EIGHT_BITS or len(detail["quantization_parameters"]["scales"]) != 1:
                raise ValueError(f"its tensor {detail['name']!r} is not of 8 bits with one scale")

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs as floats. Raises ValueError for inputs of another number, shape or type."""
        if len(arrays) != len(self._inputs):
            raise ValueError(f"it takes {len(self._inputs)} inputs, {len(arrays)} were given")
        for detail, array in zip(self._inputs, arrays):
            self._litert.set_tensor(detail["index"], _stored(array, detail))
        self._litert.invoke()
        return [_reals(self._litert.get_tensor(detail["index"]), detail) for detail in self._outputs]


def _stored(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """An input as the file holds it: quantised, and with its channels last."""
    limits = np.iinfo(detail["dtype"])
    scale, zero = detail["quantization"]
    if array.dtype in EIGHT_BITS:
        integers = array.astype(np.int16) + int(limits.min) - int(np.iinfo(array.dtype).min)
    elif array.dtype.kind != "f":
        raise ValueError(f"its input {detail['name']!r} takes floats or 8-bit integers, not {array.dtype}")
    elif not np.isfinite(array).all():
        raise ValueError(f"its input {detail['name']!r} was given numbers that are not finite")
    else:
        # as QuantizeLinear rounds: in float32, ties to even
        integers = np.clip(np.rint(array.astype(np.float32) / np.float32(scale)) + zero, limits.min, limits.max)
    stored = to_stored(integers.astype(detail["dtype"]), _layout(array.ndim))
    shape = tuple(int(size) for size in detail["shape"])
    if stored.shape != shape:
        raise ValueError(f"its input {detail['name']!r} is of shape {shape}, {stored.shape} was given (channels last)")
    return stored


def _reals(stored: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    reals = (stored.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
    return from_stored(reals, _layout(reals.ndim))


def _layout(rank: int) -> str:
    return "NHWC" if rank == 4 else "NCHW"


class Worker:
    """Answers requests to run a file."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._loaded: Interpreter | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        key = (request["path"], request["stamp"])
        if key != self._key or self._loaded is None:
            self._key, self._loaded = None, None
            self._loaded = Interpreter(request["path"])
            self._key = key
        return {"outputs": [encode_array(o) for o in self._loaded.run([decode_array(i) for i in request["inputs"]])]}


if __name__ == "__main__":
    serve(Worker().answer)
