"""A compiled network on the board: timed, counted, and asked for its outputs."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Any

GETPRIORITY = 141
"""A system call of aarch64 Linux that does nothing; with this third argument it talks to the counting plugin."""
COUNT_ON, COUNT_OFF = 0x68774E31, 0x68774E30
COUNTS = ("instructions", "memory", "simd")
SETTLING = 3
"""Runs whose counts are left out."""
COUNT_RECORD = struct.Struct("<3Q")


class Network:
    """A shared library in TVM's Relax virtual machine, with deterministic inputs of its own for timing."""

    def __init__(self, library: Path, kinds: list[list[Any]]) -> None:
        import numpy as np
        import tvm
        from tvm.runtime.vm import VirtualMachine

        self._device, self._tensor = tvm.cpu(), tvm.runtime.tensor
        self._machine = VirtualMachine(tvm.runtime.load_module(str(library)), self._device)
        self._main = self._machine["main"]
        rng = np.random.default_rng(0)
        inputs = [
            rng.standard_normal(shape).astype(kind) if np.dtype(kind).kind == "f" else np.zeros(shape, kind)
            for shape, kind in kinds
        ]
        self._arguments = [self._tensor(x) for x in inputs]
        self.inner = 0

    def time(self, inner: int) -> float:
        """The duration of `inner` runs (s)."""
        timer = self._machine.time_evaluator("main", self._device, number=inner, repeat=1)
        return float(timer(*self._arguments).results[0]) * inner

    def warm_up(self, runs: int) -> None:
        """Run before anything counts: the first runs allocate, and import what the evaluator imports."""
        if not self.inner:
            self.time(max(1, runs))
            self.inner = 1

    def calibrate(self, warmup: int, reading_s: float) -> None:
        """Warm up, then find how many runs make a reading that lasts at least `reading_s`."""
        if self.inner:
            return
        self.warm_up(warmup)
        inner = 1
        while (took := self.time(inner)) < reading_s and inner < 1 << 20:
            inner = max(inner + 1, min(inner * 10, int(inner * 1.2 * reading_s / max(took, 1e-9))))
        self.inner = inner

    def count(self, readings: int) -> list[list[int]]:
        """Instructions (all, memory, SIMD) of each of `readings` runs, as the counting plugin saw them.

        The plugin notes its counters at every reading of the clock while it is on, and the evaluator reads the clock
        right before and after a run: nothing of Python or of RPC is in between. The first runs still settle
        the allocator, and are left out.
        """
        import ctypes

        call = ctypes.CDLL(None).syscall
        timer = self._machine.time_evaluator("main", self._device, number=1, repeat=SETTLING + readings)
        source, sink = os.pipe()
        try:
            os.set_blocking(source, False)
            call(GETPRIORITY, 0, sink, COUNT_ON)
            timer(*self._arguments)
            call(GETPRIORITY, 0, sink, COUNT_OFF)
            noted = b""
            with contextlib.suppress(BlockingIOError):
                noted = os.read(source, 1 << 16)
        finally:
            os.close(source)
            os.close(sink)
        marks = list(COUNT_RECORD.iter_unpack(noted))
        if len(marks) != 2 * (SETTLING + readings):
            raise RuntimeError(f"the plugin noted {len(marks)} counts for {SETTLING + readings} runs, not two for each")
        return [[b - a for a, b in zip(*pair)] for pair in zip(marks[2 * SETTLING :: 2], marks[2 * SETTLING + 1 :: 2])]

    def outputs(self, inputs: list[Any]) -> list[Any]:
        result = self._main(*[self._tensor(x) for x in inputs])
        return [result.numpy()] if hasattr(result, "numpy") else [r.numpy() for r in result]
