"""Requests, replies and events of the binary dialect, as frozen values (firmware/PROTOCOL.md).

No serial port, no clock, no retry: those are the runner's. `firmware/vectors.json` holds frames that this package and
the C side both encode and decode byte by byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from hwnas.errors import LinkCorrupt
from hwnas.firmware.codes import Op, Provocation
from hwnas.firmware.frames import Frame

T = TypeVar("T", covariant=True)


class _Fields:
    """Reads a body from front to back; a length that lies is LinkCorrupt."""

    def __init__(self, what: str, body: bytes) -> None:
        self._what, self._body, self._at = what, body, 0

    def take(self, layout: str) -> tuple[int, ...]:
        size = struct.calcsize("<" + layout)
        return struct.unpack("<" + layout, self.raw(size))

    def raw(self, size: int) -> bytes:
        if self._at + size > len(self._body):
            raise LinkCorrupt(f"{self._what} ends after {len(self._body)} bytes; its fields need more")
        self._at += size
        return self._body[self._at - size : self._at]

    def text(self, size: int) -> str:
        return self.raw(size).decode("ascii", errors="replace")

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def end(self) -> None:
        if self.left:
            raise LinkCorrupt(f"{self._what} has {self.left} bytes more than its fields")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers: versions, counter, sizes, and the ids of image and board."""

    protocol: int
    firmware: tuple[int, int]
    counter: int
    counter_hz: int
    reset_cause: int
    networks: int
    max_body: int
    stack_bytes: int
    image_id: bytes
    board_id: bytes
    port: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output: the code of its type in hwnas_network.h, where it is in the arena, its size and shape."""

    dtype: int
    offset: int
    size_bytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One network of the image."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kernels: int
    arena_bytes: int
    workspace_bytes: int


@dataclass(frozen=True, slots=True)
class RunReport:
    """Raw ticks of each repeat, ticks of an empty region, repeats with an interrupt, and the high-water marks."""

    runs: int
    interrupted: int
    overhead_ticks: int
    stack_bytes: int
    workspace_bytes: int
    ticks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KernelTicks:
    """Ticks of some kernels, from the one that was asked for; `total` is how many the network has."""

    total: int
    ticks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoopReport:
    """How often a network ran back to back, and the ticks that took."""

    runs: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What every reply begins with, and the rest of its body."""

    status: int
    nonce: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A request; `body` encodes it, `parse` reads the rest of a reply whose status is DONE (raises LinkCorrupt)."""

    op: ClassVar[Op]

    def body(self) -> bytes:
        return b""

    def parse(self, rest: bytes) -> T:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Plain(Request[None]):
    """A request whose reply says no more than that it was done."""

    def parse(self, rest: bytes) -> None:
        _Fields(f"the reply to {self.op.name}", rest).end()


@dataclass(frozen=True, slots=True)
class Hello(Request[Identity]):
    """Who is there?"""

    op = Op.HELLO

    def parse(self, rest: bytes) -> Identity:
        fields = _Fields("the reply to HELLO", rest)
        protocol, firmware, counter, hertz, cause, networks, max_body, stack = fields.take("BHBIBHHI")
        image, board = fields.raw(10), fields.raw(12)
        port, version = fields.text(fields.left), (firmware >> 8, firmware & 0xFF)
        return Identity(protocol, version, counter, hertz, cause, networks, max_body, stack, image, board, port)


@dataclass(frozen=True, slots=True)
class Info(Request[NetworkInfo]):
    """What are the tensors of this network?"""

    network: int
    op = Op.INFO

    def body(self) -> bytes:
        return struct.pack("<H", self.network)

    def parse(self, rest: bytes) -> NetworkInfo:
        fields = _Fields("the reply to INFO", rest)
        inputs, outputs, kernels, arena, workspace, length = fields.take("BBHIIB")
        name = fields.text(length)
        tensors = []
        for _ in range(inputs + outputs):
            dtype, rank, offset, size = fields.take("BBII")
            tensors.append(TensorInfo(dtype, offset, size, fields.take(f"{rank}i")))
        fields.end()
        return NetworkInfo(name, tuple(tensors[:inputs]), tuple(tensors[inputs:]), kernels, arena, workspace)


@dataclass(frozen=True, slots=True)
class Write(_Plain):
    """Put bytes of an input into the arena."""

    network: int
    input: int
    offset: int
    data: bytes
    op = Op.WRITE
    overhead: ClassVar[int] = 7

    def body(self) -> bytes:
        return struct.pack("<HBI", self.network, self.input, self.offset) + self.data


@dataclass(frozen=True, slots=True)
class Check(Request[int]):
    """The CRC-32 of a whole input, or of output number `tensor`."""

    network: int
    tensor: int
    output: bool = False
    op = Op.CHECK

    def body(self) -> bytes:
        return struct.pack("<HB", self.network, self.tensor | (0x80 if self.output else 0))

    def parse(self, rest: bytes) -> int:
        fields = _Fields("the reply to CHECK", rest)
        (crc,) = fields.take("I")
        fields.end()
        return crc


@dataclass(frozen=True, slots=True)
class Run(Request[RunReport]):
    """Time `repeats` runs after `warmup` ones; `pattern` fills the inputs before each, else they were written."""

    network: int
    warmup: int
    repeats: int
    pattern: bool = True
    kernels: bool = False
    op = Op.RUN

    def body(self) -> bytes:
        return struct.pack("<HHHB", self.network, self.warmup, self.repeats, self.pattern | self.kernels << 1)

    def parse(self, rest: bytes) -> RunReport:
        fields = _Fields("the reply to RUN", rest)
        runs, interrupted, overhead, stack, workspace = fields.take("HHQII")
        ticks = fields.take(f"{self.repeats}Q")
        fields.end()
        return RunReport(runs, interrupted, overhead, stack, workspace, ticks)


@dataclass(frozen=True, slots=True)
class Read(Request[bytes]):
    """Bytes of an output."""

    network: int
    output: int
    offset: int
    length: int
    op = Op.READ
    overhead: ClassVar[int] = 5

    def body(self) -> bytes:
        return struct.pack("<HBIB", self.network, self.output, self.offset, self.length)

    def parse(self, rest: bytes) -> bytes:
        fields = _Fields("the reply to READ", rest)
        data = fields.raw(self.length)
        fields.end()
        return data


@dataclass(frozen=True, slots=True)
class Kernels(Request[KernelTicks]):
    """Ticks of each kernel in the last RUN that timed them, from number `first` on."""

    network: int
    first: int
    op = Op.KERNELS

    def body(self) -> bytes:
        return struct.pack("<HH", self.network, self.first)

    def parse(self, rest: bytes) -> KernelTicks:
        fields = _Fields("the reply to KERNELS", rest)
        (total,) = fields.take("H")
        ticks = fields.take(f"{fields.left // 8}Q")
        fields.end()
        return KernelTicks(total, ticks)


@dataclass(frozen=True, slots=True)
class Loop(Request[LoopReport]):
    """Run back to back for some milliseconds, the trigger pin high."""

    network: int
    milliseconds: int
    op = Op.LOOP

    def body(self) -> bytes:
        return struct.pack("<HI", self.network, self.milliseconds)

    def parse(self, rest: bytes) -> LoopReport:
        fields = _Fields("the reply to LOOP", rest)
        runs, ticks = fields.take("IQ")
        fields.end()
        return LoopReport(runs, ticks)


@dataclass(frozen=True, slots=True)
class Reset(_Plain):
    """Restart, after the reply."""

    op = Op.RESET


@dataclass(frozen=True, slots=True)
class Stop(_Plain):
    """End a RUN or LOOP under way."""

    op = Op.STOP


@dataclass(frozen=True, slots=True)
class Name(Request[str]):
    """The operators that a kernel fuses."""

    network: int
    kernel: int
    op = Op.NAME

    def body(self) -> bytes:
        return struct.pack("<HH", self.network, self.kernel)

    def parse(self, rest: bytes) -> str:
        return rest.decode("ascii", errors="replace")


@dataclass(frozen=True, slots=True)
class Provoke(_Plain):
    """Misbehave; only a firmware built for tests does. `count` is the number of further boots of a brown-out."""

    kind: Provocation
    count: int = 0
    op = Op.PROVOKE

    def body(self) -> bytes:
        return bytes([self.kind]) + (bytes([self.count]) if self.kind is Provocation.BROWN_OUT else b"")


@dataclass(frozen=True, slots=True)
class Boot:
    """The board started."""

    nonce: int
    cause: int


@dataclass(frozen=True, slots=True)
class Alive:
    """A RUN or LOOP is under way; `done` runs so far."""

    op: int
    done: int


@dataclass(frozen=True, slots=True)
class Fault:
    """The registers of a Cortex-M at a fault; the board restarts."""

    kind: int
    pc: int
    lr: int
    cfsr: int
    hfsr: int
    bfar: int


def parse_reply(frame: Frame) -> Reply:
    """The envelope of a reply. Raises LinkCorrupt if it is too short for one."""
    fields = _Fields(f"the reply 0x{frame.op:02x}", frame.body)
    status, nonce = fields.take("BI")
    return Reply(status, nonce, fields.raw(fields.left))


def parse_event(frame: Frame) -> Boot | Alive | Fault | None:
    """What an event says; None for one that this version does not know. Raises LinkCorrupt for a length that lies."""
    fields = _Fields(f"the event 0x{frame.op:02x}", frame.body)
    event: Boot | Alive | Fault
    if frame.op == Op.BOOT:
        event = Boot(*fields.take("IB"))
    elif frame.op == Op.ALIVE:
        event = Alive(*fields.take("BI"))
    elif frame.op == Op.FAULT:
        event = Fault(*fields.take("BIIIII"))
    else:
        return None
    fields.end()
    return event
