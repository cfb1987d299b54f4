"""The process that runs compiled code on this computer: loads an artifact, times it, computes its outputs.

It runs one artifact at a time; a crash ends only this process. Start it with `python -m hwnas.runners.worker`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hwnas.core.artifact import LIBRARY, NETWORK
from hwnas.graph.session import open_session
from hwnas.processes import serve
from hwnas.runners.arrays import decode_array, encode_array, read_interface
from hwnas.runners.generated import CgenLoaded

ORT_TYPES = {
    "tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2", "tensor(bool)": "?", "tensor(uint8)": "u1",
    "tensor(int8)": "i1", "tensor(int32)": "i4", "tensor(int64)": "i8",
}  # fmt: skip


class Loaded(Protocol):
    """A loaded network: `time(inner)` is the duration of `inner` runs in seconds."""

    def time(self, inner: int) -> float: ...
    def outputs(self, inputs: list[np.ndarray]) -> list[np.ndarray]: ...


def random_inputs(shapes: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[np.ndarray]:
    """Deterministic inputs for timing: normal floats, zero integers (safe as indices)."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
        for shape, dtype in shapes
    ]


class OrtLoaded:
    """An ONNX file in an onnxruntime session, inputs and outputs bound once so that only the run is timed."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._session = open_session(str(folder / NETWORK), options)
        self._names = [i.name for i in self._session.get_inputs()]
        shapes = [(tuple(i.shape), np.dtype(ORT_TYPES[i.type])) for i in self._session.get_inputs()]
        self._binding = self._session.io_binding()
        self._held = random_inputs(shapes)
        for name, value in zip(self._names, self._held):
            self._binding.bind_cpu_input(name, value)
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)

    def time(self, inner: int) -> float:
        run, binding = self._session.run_with_iobinding, self._binding
        start = time.perf_counter()
        for _ in range(inner):
            run(binding)
        return time.perf_counter() - start

    def outputs(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(o) for o in self._session.run(None, dict(zip(self._names, inputs)))]


class TvmLoaded:
    """A shared library in TVM's Relax virtual machine."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        os.environ["TVM_NUM_THREADS"] = str(options["threads"])
        import tvm
        from tvm import relax

        self._device = tvm.cpu()
        self._tensor = tvm.runtime.tensor
        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / LIBRARY)), self._device)
        self._interface = read_interface(folder)
        kinds = [(shape, np.dtype(kind)) for shape, kind in self._interface.inputs]
        self._arguments = [self._tensor(x) for x in random_inputs(kinds)]
        self._main = self._machine["main"]

    def time(self, inner: int) -> float:
        timer = self._machine.time_evaluator("main", self._device, number=inner, repeat=1)
        return float(timer(*self._arguments).results[0]) * inner

    def outputs(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        result = self._main(*map(self._tensor, self._interface.to_library(inputs)))
        made = [result.numpy()] if hasattr(result, "numpy") else [r.numpy() for r in result]
        return self._interface.to_network(made)


LOADERS: dict[str, Callable[[Path, dict[str, Any]], Loaded]] = {
    "cgen": CgenLoaded, "ort": OrtLoaded, "tvm": TvmLoaded,
}  # fmt: skip


class Worker:
    """Answers `run`, `loop` and `outputs` requests; keeps the artifact that it loaded last."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._loaded: Loaded | None = None
        self._inner: int | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        loaded = self._load(request)
        if request["do"] == "outputs":
            return {"outputs": [encode_array(o) for o in loaded.outputs([decode_array(i) for i in request["inputs"]])]}
        if self._inner is None:
            self._inner = _calibrate(loaded, int(request["warmup"]), float(request["reading_s"]))
        if request["do"] == "loop":
            return _loop(loaded, self._inner, float(request["seconds"]))
        readings = [loaded.time(self._inner) / self._inner for _ in range(int(request["readings"]))]
        return {"latency_s": readings, "inner": self._inner}

    def _load(self, request: dict[str, Any]) -> Loaded:
        key = (request["path"], request["stamp"])
        if key != self._key or self._loaded is None:
            self._key, self._loaded, self._inner = None, None, None
            self._loaded = LOADERS[request["toolchain"]](Path(request["path"]), request["options"])
            self._key = key
        return self._loaded


def _loop(loaded: Loaded, inner: int, seconds: float) -> dict[str, Any]:
    """Run back to back for at least `seconds`; the monotonic clock is the same in every process of a computer."""
    runs, began = 0, time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        loaded.time(inner)
        runs += inner
    return {"runs": runs, "began_s": began, "ended_s": now}


def _calibrate(loaded: Loaded, warmup: int, reading_s: float) -> int:
    """Warm up, then find how many runs make a reading that lasts at least `reading_s`."""
    loaded.time(max(1, warmup))
    inner = 1
    while (took := loaded.time(inner)) < reading_s and inner < 1 << 20:
        inner = max(inner + 1, min(inner * 10, int(inner * 1.2 * reading_s / max(took, 1e-9))))
    return inner


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it, and slow every start
    if hasattr(os, "sched_setaffinity") and (core := os.environ.get("HWNAS_CORE")):
        os.sched_setaffinity(0, {int(c) for c in core.split(",")})
    serve(Worker().answer)
