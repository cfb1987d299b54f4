"""Runs under qemu-aarch64 with the counting plugin: what onnxruntime executes for one run of each network.

Arguments: ONNX files. Prints a line of JSON for each: the file, and instructions, memory accesses and SIMD
instructions of a run, the least of some. It needs numpy and onnxruntime alone, and nothing of hwnas.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import sys
import time

import numpy as np
import onnxruntime as ort

GETPRIORITY, COUNT_ON, COUNT_OFF = 141, 0x68774E31, 0x68774E30
"""As in `hwnas.runners.tvm_rpc.agent.network`: the plugin notes its counters at every reading of the clock."""
RECORD = struct.Struct("<3Q")
SETTLING, RUNS = 3, 3


def main() -> None:
    for path in sys.argv[1:]:
        try:
            print(json.dumps({"file": path, "counts": counts(path)}), flush=True)
        except Exception as error:
            print(json.dumps({"file": path, "error": f"{type(error).__name__}: {error}"}), flush=True)


def counts(path: str) -> list[int]:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    binding = session.io_binding()
    binding.bind_cpu_input(given.name, np.random.default_rng(0).standard_normal(given.shape).astype(np.float32))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    run = session.run_with_iobinding
    for _ in range(SETTLING):
        run(binding)
    empty = min(one(lambda: None) for _ in range(RUNS))
    least = min(one(lambda: run(binding)) for _ in range(RUNS))
    return [a - b for a, b in zip(least, empty)]


def one(run) -> list[int]:  # type: ignore[no-untyped-def]
    """The counts between the first and the last reading of the clock around a run."""
    call = ctypes.CDLL(None).syscall
    source, sink = os.pipe()
    try:
        os.set_blocking(source, False)
        call(GETPRIORITY, 0, sink, COUNT_ON)
        time.perf_counter()
        run()
        time.perf_counter()
        call(GETPRIORITY, 0, sink, COUNT_OFF)
        noted = b""
        with contextlib.suppress(BlockingIOError):
            noted = os.read(source, 1 << 16)
    finally:
        os.close(source)
        os.close(sink)
    marks = list(RECORD.iter_unpack(noted))
    return [b - a for a, b in zip(marks[0], marks[-1])]


if __name__ == "__main__":
    main()
