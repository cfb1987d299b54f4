"""Runs TFLite files with LiteRT in a child process, because a broken file may end the interpreter and whoever called it."""

from __future__ import annotations

import atexit
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import DeviceCrashed, DeviceError, DeviceTimeout, DeviceUnavailable
from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout
from hwnas.runners.arrays import decode_array, encode_array

if TYPE_CHECKING:
    import numpy as np

_child: Child | None = None
_lock = threading.Lock()


def require_litert() -> None:
    """Raises DeviceUnavailable where LiteRT is missing."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise DeviceUnavailable('running a TFLite file needs the package ai-edge-litert: pip install "hwnas[npu]"')


def run_tflite(path: Path, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
    """What a TFLite file with 8-bit inputs and outputs computes; one run.

    inputs: floats in ONNX's order of axes (N, C, H, W where the file has N, H, W, C), quantised here by the file's own
    scales; uint8 or int8 arrays are taken as the network's stored integers. Outputs are floats in ONNX's order again.
    Raises DeviceUnavailable where LiteRT is missing, DeviceTimeout, DeviceCrashed where the file ends the interpreter,
    DeviceError for a file that LiteRT refuses or inputs that it does not take.
    """
    require_litert()
    if not path.is_file():
        raise DeviceError(f"there is no file {path}")
    global _child
    message = {
        "path": str(path.resolve()),
        "stamp": f"{path.stat().st_mtime_ns} {path.stat().st_size}",
        "inputs": [encode_array(array) for array in inputs],
    }
    with _lock:
        if _child is None:
            _child = Child("hwnas.runners.litert_worker")
            atexit.register(_child.close)
        try:
            answer = _child.request(message, timeout_s)
        except ChildTimeout as error:
            raise DeviceTimeout(f"LiteRT gave {error}") from error
        except ChildCrashed as error:
            raise DeviceCrashed(f"LiteRT did not survive {path.name}: {error}") from error
        except ChildError as error:
            raise DeviceError(f"LiteRT cannot run {path.name}: {error}") from error
    return [decode_array(output) for output in answer["outputs"]]
