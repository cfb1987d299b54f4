"""Operations on a board that runs an image: time a network, feed it inputs, read its outputs, loop it for a meter."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from hwnas.errors import DeviceError, LinkCorrupt
from hwnas.firmware.codes import MAX_BODY, MAX_REPEATS
from hwnas.firmware.protocol import (
    Check,
    Info,
    Kernels,
    Loop,
    LoopReport,
    NetworkInfo,
    Read,
    Run,
    RunReport,
    TensorInfo,
    Write,
)
from hwnas.runners.arrays import from_stored
from hwnas.runners.exchange import Exchange, InputUsed
from hwnas.runners.images import Layout, TensorLayout

DTYPES = ("float32", "int8", "uint8", "int32", "int64")
"""numpy's names of the codes in hwnas_network.h."""
TRIES = 3
"""How often an upload, a run or a download is done anew when its check fails."""


def check_network(exchange: Exchange, deadline: float, number: int, layout: Layout) -> None:
    """Raise DeviceError if network `number` of the image is not the one that `layout` describes."""
    said = exchange.call(Info(number), deadline)
    expected = NetworkInfo(
        name=said.name,  # for people; the tensors say whether it is the same
        inputs=tuple(map(_as_info, layout.inputs)),
        outputs=tuple(map(_as_info, layout.outputs)),
        kernels=len(layout.kernels),
        arena_bytes=layout.arena_bytes,
        workspace_bytes=layout.workspace_bytes,
    )
    if said != expected:
        raise DeviceError(
            f"network {number} on the board is not {layout.symbol}: it has {said}, the artifact {expected}"
        )


def time_runs(exchange: Exchange, deadline: float, number: int, warmup: int, repeats: int) -> RunReport:
    """Run a network on the fixed pattern, at most MAX_REPEATS times, and report the raw ticks."""
    report = exchange.call(Run(number, warmup, min(repeats, MAX_REPEATS)), deadline, long=True)
    if report.runs != len(report.ticks):
        raise LinkCorrupt(f"the board timed {report.runs} runs and reported {len(report.ticks)}")
    return report


def kernel_ticks(exchange: Exchange, deadline: float, number: int) -> list[int]:
    """Ticks of each kernel of one run on the fixed pattern."""
    exchange.call(Run(number, 1, 1, kernels=True), deadline, long=True)
    ticks: list[int] = []
    while True:
        part = exchange.call(Kernels(number, len(ticks)), deadline)
        ticks += part.ticks
        if len(ticks) >= part.total:
            return ticks
        if not part.ticks:
            raise LinkCorrupt(f"the board has {part.total} kernels and tells the time of {len(ticks)}")


def infer(
    exchange: Exchange, deadline: float, number: int, layout: Layout, inputs: Sequence[bytes], largest_body: int
) -> list[bytes]:
    """The outputs of one run on the given inputs, each tensor checked by its CRC on both ways."""
    for left in reversed(range(TRIES)):
        try:
            for index, data in enumerate(inputs):
                _upload(exchange, deadline, number, index, data, largest_body)
            exchange.call(Run(number, 0, 1, pattern=False), deadline, long=True)
            break
        except InputUsed:  # the reply of a run that was done had been lost for good
            if not left:
                raise
    return [_download(exchange, deadline, number, i, t.bytes, largest_body) for i, t in enumerate(layout.outputs)]


def loop(exchange: Exchange, deadline: float, number: int, milliseconds: int) -> LoopReport:
    """Run a network back to back, the trigger high meanwhile."""
    return exchange.call(Loop(number, milliseconds), deadline, long=True)


def as_tensor(data: bytes, layout: TensorLayout) -> np.ndarray:
    """An output's bytes as the array they are."""
    values = np.frombuffer(data, np.dtype(layout.dtype).newbyteorder("<")).reshape(layout.stored_shape)
    return from_stored(values, layout.layout)


def _upload(exchange: Exchange, deadline: float, number: int, index: int, data: bytes, largest_body: int) -> None:
    size = min(largest_body, MAX_BODY) - Write.overhead
    for _ in range(TRIES):
        for at in range(0, len(data), size):
            exchange.call(Write(number, index, at, data[at : at + size]), deadline)
        if exchange.call(Check(number, index), deadline) == zlib.crc32(data):
            return
    raise LinkCorrupt(f"input {index} did not arrive whole in {TRIES} tries")


def _download(exchange: Exchange, deadline: float, number: int, index: int, size: int, largest_body: int) -> bytes:
    piece = min(largest_body, MAX_BODY) - Read.overhead
    for _ in range(TRIES):
        data = b"".join(
            exchange.call(Read(number, index, at, min(piece, size - at)), deadline) for at in range(0, size, piece)
        )
        if exchange.call(Check(number, index, output=True), deadline) == zlib.crc32(data):
            return data
    raise LinkCorrupt(f"output {index} did not arrive whole in {TRIES} tries")


def _as_info(tensor: TensorLayout) -> TensorInfo:
    return TensorInfo(DTYPES.index(tensor.dtype), tensor.offset, tensor.bytes, tensor.stored_shape)
