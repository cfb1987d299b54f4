"""Generated C networks (toolchain cgen) as shared libraries on this computer, called through the C interface they share
with the firmware."""

from __future__ import annotations

import ctypes
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.core.artifact import LAYOUT, LIBRARY
from hwnas.runners.arrays import from_stored, stored_shape, to_stored

ALIGNMENT = 16


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("dtype", ctypes.c_uint8), ("rank", ctypes.c_uint8), ("shape", ctypes.c_int32 * 6),
        ("offset", ctypes.c_uint32), ("bytes", ctypes.c_uint32),
    ]  # fmt: skip


class _Kernel(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("run", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p))]


class _Network(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("arena_bytes", ctypes.c_uint32), ("workspace_bytes", ctypes.c_uint32),
        ("inputs", ctypes.c_uint16), ("outputs", ctypes.c_uint16), ("kernels", ctypes.c_uint16),
        ("input", ctypes.POINTER(_Tensor)), ("output", ctypes.POINTER(_Tensor)), ("kernel", ctypes.POINTER(_Kernel)),
    ]  # fmt: skip


class CgenLoaded:
    """A generated network in a shared library; inputs are written into the arena before every run, outside of time."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._layout = json.loads((folder / LAYOUT).read_text())
        self._library = _load(folder / LIBRARY)
        self._network = _Network.in_dll(self._library, self._layout["symbol"])
        self._arena = _aligned(self._network.arena_bytes)
        self._workspace = _aligned(self._network.workspace_bytes)
        self._kernels = [self._network.kernel[k].run for k in range(self._network.kernels)]
        self._pointers = (self._arena.ctypes.data, self._workspace.ctypes.data)
        rng = np.random.default_rng(0)
        self._sample = [
            rng.standard_normal(t["shape"]).astype(t["dtype"])
            if np.dtype(t["dtype"]).kind == "f"
            else np.zeros(t["shape"], t["dtype"])
            for t in self._layout["inputs"]
        ]

    def time(self, inner: int) -> float:
        """Seconds of `inner` runs, without the time that writing inputs takes."""
        spent = 0.0
        for _ in range(inner):
            self._write(self._sample)
            start = time.perf_counter()
            self._run()
            spent += time.perf_counter() - start
        return spent

    def outputs(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self._write(inputs)
        self._run()
        return [self._read(tensor) for tensor in self._layout["outputs"]]

    def _read(self, tensor: dict[str, Any]) -> np.ndarray:
        raw = self._arena[tensor["offset"] : tensor["offset"] + tensor["bytes"]].view(tensor["dtype"])
        return from_stored(raw.reshape(stored_shape(tensor["shape"], tensor["layout"])).copy(), tensor["layout"])

    def _write(self, inputs: list[np.ndarray]) -> None:
        if len(inputs) != len(self._layout["inputs"]):
            raise ValueError(f"the network takes {len(self._layout['inputs'])} inputs, {len(inputs)} were given")
        for tensor, value in zip(self._layout["inputs"], inputs):
            if list(value.shape) != tensor["shape"] or str(value.dtype) != tensor["dtype"]:
                raise ValueError(
                    f"input {tensor['name']!r} is {tensor['dtype']} of shape {tensor['shape']}, "
                    f"given is {value.dtype} of shape {list(value.shape)}"
                )
            raw = to_stored(value, tensor["layout"]).reshape(-1).view(np.uint8)
            self._arena[tensor["offset"] : tensor["offset"] + tensor["bytes"]] = raw

    def _run(self) -> None:
        for k, kernel in enumerate(self._kernels):
            if error := kernel(*self._pointers):
                raise RuntimeError(f"kernel {k} ({self._layout['kernels'][k]}) reported error {error}")


def _load(library: Path) -> ctypes.CDLL:
    """A library under a path of its own: the loader takes a file that was built anew for the one it has loaded."""
    with tempfile.TemporaryDirectory(prefix="hwnas-library-") as folder:
        copy = shutil.copy(library, Path(folder) / library.name)
        return ctypes.CDLL(str(copy))


def _aligned(size: int) -> np.ndarray:
    """So many bytes at an address that is a multiple of ALIGNMENT."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + max(1, size)]
