"""The core simulated cycle by cycle by Verilator: jobs in, results and cycles out, each by a deadline."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Final

import numpy as np

from hwnas.errors import DataError, DeviceCrashed, DeviceTimeout
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.build import simulator
from hwnas.firmware.fpga.job import Job
from hwnas.firmware.fpga.law import cycles, misfit
from hwnas.firmware.fpga.words import activation_words, parameter_words, results, weight_words

MAGIC: Final = 0x31465748
STUCK: Final = 3
"""The program's status where a job passed its limit of cycles."""
_HEAD = struct.Struct("<III")
_JOB = struct.Struct("<10I3i3I4B")
_ANSWER = struct.Struct("<II")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Pauses:
    """How often each stream pauses, of 256 cycles; 255 is for ever. The same seed pauses in the same cycles."""

    activations: int = 0
    weights: int = 0
    parameters: int = 0
    results: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0 <= share <= 255 for share in self.shares):
            raise DataError(f"pauses are of 256 cycles, 0 to 255, not {self.shares}")

    @property
    def shares(self) -> tuple[int, int, int, int]:
        return self.activations, self.weights, self.parameters, self.results


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What the core gave, and the cycles from the announcement of the job to its last result, both included."""

    values: np.ndarray
    cycles: int


class Simulation:
    """A simulated core of one array; opens on first use, closes with `close` or at the end of a `with`."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(
        self,
        jobs: Iterable[Job],
        timeout_s: float = 60.0,
        *,
        cycles_limit: int | None = None,
        pauses: Pauses | None = None,
    ) -> list[Result]:
        """Simulate jobs one after the other; timeout_s is for all of them together, and not for building the simulator.

        cycles_limit: of each job; as the law says, with room for pauses, where it is None. Raises DataError for a job
        that does not fit the array, DeviceTimeout where a limit passed, DeviceCrashed where the simulation ended,
        BuildError where it cannot be built.
        """
        waiting = list(jobs)
        for job in waiting:
            if (why := misfit(job.shape, self.array)) is not None:
                raise DataError(f"the job does not fit the {self.array} array: {why}")
        if self._process is None:
            self._start()
        deadline = time.monotonic() + timeout_s
        return [self._run(job, deadline, cycles_limit, pauses or Pauses()) for job in waiting]

    def close(self) -> None:
        """End the simulation; safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._errors):
                if stream is not None:
                    stream.close()
        self._process = self._errors = None

    def _run(self, job: Job, deadline: float, cycles_limit: int | None, pauses: Pauses) -> Result:
        shape = job.shape
        if cycles_limit is None:
            slowest = 256 / (256 - min(max(pauses.shares), 254))
            cycles_limit = int((2 * cycles(shape, self.array) + 1000) * slowest)
        left_s = deadline - time.monotonic()
        streams = [f(job, self.array) for f in (activation_words, weight_words, parameter_words)]
        tiles = streams[2].shape[0] // self.array.columns
        result_words = tiles * shape.m
        head = _JOB.pack(
            shape.k, tiles, shape.m, *(s.shape[0] for s in streams), result_words,
            job.grouped, job.activations.dtype == np.int8, job.zero & 0xFF, job.result_zero, job.low, job.high,
            max(1, int(left_s) + 5), min(cycles_limit, 2**32 - 1), pauses.seed & 0xFFFFFFFF, *pauses.shares,
        )  # fmt: skip
        self._send(b"".join([head, *(s.tobytes() for s in streams)]), deadline)
        counted, words = _ANSWER.unpack(self._receive(_ANSWER.size, deadline))
        if words != result_words:
            self.close()
            raise DeviceCrashed(f"the simulation answered with {words} results, and the job has {result_words}")
        raw = np.frombuffer(self._receive(words * self.array.columns, deadline), np.uint8)
        return Result(results(job, self.array, raw.reshape(words, self.array.columns)), counted)

    def _start(self) -> None:
        program = simulator(self.array)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )  # fmt: skip
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._process.stdin.write(_HEAD.pack(MAGIC, self.array.rows, self.array.columns))

    def _send(self, data: bytes, deadline: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        view, to = memoryview(data), self._process.stdin.fileno()
        while view:
            if not select.select([], [to], [], max(0.0, deadline - time.monotonic()))[1]:
                self._expire()
            try:
                view = view[os.write(to, view[:_CHUNK]) :]
            except BrokenPipeError:
                self._ended()

    def _receive(self, size: int, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        source, found = self._process.stdout.fileno(), bytearray()
        while len(found) < size:
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self._expire()
            data = os.read(source, min(_CHUNK, size - len(found)))
            if not data:
                self._ended()
            found += data
        return bytes(found)

    def _expire(self) -> None:
        self.close()
        raise DeviceTimeout(f"the simulation of the {self.array} array did not answer by its deadline")

    def _ended(self) -> None:
        """Say why the program ended."""
        assert self._process is not None and self._errors is not None
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            status = None
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode(errors="replace").strip()
        self.close()
        if status == STUCK:
            raise DeviceTimeout(f"the {self.array} core is stuck: {said}")
        raise DeviceCrashed(f"the simulation of the {self.array} array ended with status {status}: {said}")
