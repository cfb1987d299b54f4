"""A device that speaks the binary dialect in simulated time: for what an emulator cannot be made to do on command."""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from hwnas.errors import DeviceUnavailable
from hwnas.firmware.codes import REPLY, Op, Status
from hwnas.firmware.frames import Decoder, Frame, encode
from hwnas.runners.exchange import Timing
from hwnas.runners.links import Link

PORT = "mps2"
IMAGE = b"image-0001"
BOARD = b"board-000001"


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Simulator:
    """Answers requests. `run_s` is how long a RUN takes, a heartbeat every `beat_s`; rules are free to misbehave.

    rule: request -> bytes to send instead of the reply (with how much later each comes), or None for the usual.
    """

    time: Time
    rule: Callable[[Frame], list[tuple[float, bytes]] | None] = lambda request: None
    nonce: int = 0x11111111
    protocol: int = 1
    image: bytes = IMAGE
    board: bytes = BOARD
    port: str = PORT
    counter_hz: int = 100_000_000
    run_s: float = 0.0
    beat_s: float = 0.25
    mute: bool = False
    executed: list[Frame] = field(default_factory=list)
    received: list[Frame] = field(default_factory=list)
    decoder: Decoder = field(default_factory=Decoder)
    queue: list[tuple[float, int, bytes]] = field(default_factory=list)
    last: tuple[Frame, list[tuple[float, bytes]]] | None = None
    count: int = 0
    busy_until: float = 0.0

    def take(self, data: bytes) -> None:
        for request in self.decoder.feed(data):
            self.received.append(request)
            if self.mute or (self.time.now < self.busy_until and request.op != Op.STOP):
                continue
            instead = self.rule(request)
            if instead is None:
                if self.last is None or self.last[0] != request:
                    self.executed.append(request)
                    self.last = (request, self.work(request))
                    instead = self.last[1]
                else:
                    instead = [(0.0, self.last[1][-1][1])]
            for delay, sent in instead:
                self.send(sent, delay)

    def send(self, data: bytes, delay: float = 0.0) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.time.now + delay, self.count, data))

    def work(self, request: Frame) -> list[tuple[float, bytes]]:
        if request.op == Op.HELLO:
            head = struct.pack("<BHBIBHHI", self.protocol, 0x0100, 1, self.counter_hz, 1, 1, 240, 4096)
            return [(0.0, self.reply(request, head + self.image + self.board + self.port.encode()))]
        if request.op == Op.RUN:
            self.busy_until = self.time.now + self.run_s
            repeats = struct.unpack_from("<H", request.body, 4)[0]
            beats = int(self.run_s / self.beat_s) if self.beat_s else 0
            alive = [(self.beat_s * (i + 1), alive_event(Op.RUN, i)) for i in range(beats)]
            report = struct.pack("<HHQII", repeats, 0, 10, 300, 16) + struct.pack(f"<{repeats}Q", *[1010] * repeats)
            return [*alive, (self.run_s, self.reply(request, report))]
        if request.op == Op.STOP:
            self.busy_until = self.time.now
        if request.op == Op.CHECK:
            return [(0.0, self.reply(request, struct.pack("<I", zlib.crc32(b""))))]
        return [(0.0, self.reply(request))]

    def reply(self, request: Frame, rest: bytes = b"", status: int = Status.DONE) -> bytes:
        body = struct.pack("<BI", status, self.nonce) + rest
        return encode(Frame(request.seq, request.op | REPLY, body))

    def restart(self, cause: int = 1, *, announce: bool = True) -> None:
        self.nonce += 1
        self.last, self.busy_until = None, 0.0
        self.queue.clear()
        if announce:
            self.send(encode(Frame(0, Op.BOOT, struct.pack("<IB", self.nonce, cause))))


def alive_event(op: int, done: int) -> bytes:
    return encode(Frame(0, Op.ALIVE, struct.pack("<BI", op, done)))


class SimulatedLink:
    """The host's end of the simulated line."""

    byte_s = 10 / 115_200

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.closed = False

    def send(self, data: bytes) -> None:
        self.simulator.take(data)

    def receive(self, timeout_s: float) -> bytes:
        time, queue = self.simulator.time, self.simulator.queue
        until = time.now + max(0.0, timeout_s)
        if queue and queue[0][0] <= until:
            at, _, data = heapq.heappop(queue)
            time.now = max(time.now, at)
            return data
        time.now = until
        return b""

    def pulse_reset(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class SimulatedStation:
    """A station that notes what is done to its board; `mends` is what helps."""

    place = "bench-1"
    timing = Timing()

    def __init__(self, simulator: Simulator, mends: str | None = None) -> None:
        self.simulator, self.mends = simulator, mends
        self.done: list[str] = []
        self.absent = False

    def connect(self) -> Link:
        if self.absent:
            self.simulator.time.now += 0.5
            raise DeviceUnavailable("/dev/ttyACM0 cannot be opened: no such device")
        self.done.append("connect")
        return self._mend("connect") or SimulatedLink(self.simulator)

    def reset(self, timeout_s: float = 1.0) -> bool:
        self.done.append("reset")
        self._mend("reset")
        return True

    def power_cycle(self, timeout_s: float = 1.0) -> bool:
        self.done.append("power")
        self._mend("power")
        return True

    def diagnosis(self) -> str | None:
        return None

    def _mend(self, what: str) -> None:
        if what == self.mends:
            self.simulator.mute = False
            self.simulator.restart()
