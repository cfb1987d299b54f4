"""Request and reply on a link: sequence numbers, retries, heartbeats, and the nonce that tells of a restart.

What an exchange cannot mend by asking again is the session's: it raises, and says what happened.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hwnas.errors import DeviceCrashed, DeviceError, DeviceTimeout, LinkCorrupt
from hwnas.firmware.codes import EVENT_SEQ, REPLY, Op, ResetCause, Status
from hwnas.firmware.frames import RESYNC, Decoder, Frame, encode
from hwnas.firmware.protocol import Alive, Boot, Fault, Request, Stop, parse_event, parse_reply
from hwnas.runners.crash import describe
from hwnas.runners.links import Link

T = TypeVar("T")
Clock = Callable[[], float]

LARGEST_FRAME_BYTES = 250
QUIET_S = 0.02
BABBLE_S = 0.5
"""How long stale bytes are waited out; a board that sends without end does not hold up the host."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the host is (s): `slack_s` beyond four times the transfer, `boot_s` for a board to start, `silence_s`
    between heartbeats; and how often a request is sent again."""

    slack_s: float = 0.1
    boot_s: float = 5.0
    silence_s: float = 1.5
    retries: int = 3


class Restarted(DeviceError):
    """The board started anew: what was uploaded is gone, and what was measured counts for nothing."""

    def __init__(self, cause: int | None) -> None:
        self.cause = cause
        why = "" if cause is None else f" ({_cause(cause)})"
        super().__init__(f"the board restarted by itself{why}")


class StillRunning(DeviceTimeout):
    """The deadline passed while the board was at work; a STOP ends that."""


class Refused(DeviceError):
    """The firmware answered that it cannot do what was asked."""


class InputUsed(DeviceError):
    """The inputs were used up by a run and have to be written again."""


class KernelError(DeviceError):
    """A kernel of the network reported an error."""


class Exchange:
    """Calls on one open link; `nonce` is that of the boot that the caller talks to, None until it is known.

    seq: the last number used on the link before, so that no late reply to that is taken for one of ours.
    """

    def __init__(self, link: Link, timing: Timing, clock: Clock = time.monotonic, seq: int = 0) -> None:
        self._link, self._timing, self._clock = link, timing, clock
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self.seq = seq
        self._good = 0
        self.nonce: int | None = None
        self.resent = 0

    def call(self, request: Request[T], deadline: float, *, long: bool = False) -> T:
        """The reply to a request, before `deadline` on the clock; `long` ones may take as long as heartbeats come.

        Raises DeviceTimeout (StillRunning for a `long` one), LinkCorrupt, LinkLost, Restarted, DeviceCrashed, Refused,
        InputUsed, KernelError.
        """
        trouble: LinkCorrupt | None = None
        corrupt = self._decoder.corrupt
        frame = self._number(request)
        asked = 0
        while asked <= self._timing.retries and (not asked or self._clock() < deadline):
            self.resent += bool(asked)
            asked += 1
            self._link.send(encode(frame))
            rest = self._reply(frame, deadline, long)
            if rest is None:
                if long and self._clock() >= deadline:
                    raise StillRunning(f"{request.op.name} had not ended by its deadline")
                continue
            try:
                return request.parse(rest)
            except LinkCorrupt as error:  # the CRC is right and the length lies: have the reply made anew
                trouble, frame = error, self._number(request)
        if trouble is not None:
            raise trouble
        lost = self._decoder.corrupt - corrupt
        if lost and not self._good:
            raise LinkCorrupt(f"nothing but noise on the line in answer to {request.op.name}: is the baud rate right?")
        if lost:
            raise LinkCorrupt(f"no good reply to {request.op.name}, and {lost} corrupt ones")
        raise DeviceTimeout(f"no answer to {request.op.name}, asked {asked} times")

    def stop(self) -> None:
        """End a RUN or LOOP that outlived its deadline. Raises as `call`."""
        self.call(Stop(), self._clock() + self._timing.boot_s)

    def resync(self) -> None:
        """Begin anew on the line: end what the device may be in the middle of, and forget what has arrived."""
        self._link.send(RESYNC)
        until = self._clock() + BABBLE_S
        while self._link.receive(QUIET_S) and self._clock() < until:
            pass
        self._decoder.reset()
        self._frames.clear()
        self.nonce = None

    def _number(self, request: Request[Any]) -> Frame:
        self.seq = self.seq % 255 + 1
        return Frame(self.seq, request.op, request.body())

    def _transfer_s(self, size: int) -> float:
        return 4 * size * self._link.byte_s + self._timing.slack_s

    def _reply(self, asked: Frame, deadline: float, long: bool) -> bytes | None:
        """The rest of the reply to a frame that was sent; None if it did not come in time."""
        patience = self._timing.silence_s if long else 0.0
        until = self._clock() + self._transfer_s(len(asked.body) + LARGEST_FRAME_BYTES) + patience
        corrupt = self._decoder.corrupt
        while True:
            while self._frames:
                frame = self._frames.popleft()
                self._good += 1
                if frame.seq == EVENT_SEQ:
                    if self._hear(frame, asked.op):
                        until = max(until, self._clock() + self._transfer_s(LARGEST_FRAME_BYTES) + patience)
                elif (frame.seq, frame.op) == (asked.seq, asked.op | REPLY):
                    return self._open(frame)
            now = self._clock()
            if self._decoder.corrupt > corrupt and not long:  # that may have been the reply: do not wait for another
                corrupt = self._decoder.corrupt
                until = min(until, now + QUIET_S + LARGEST_FRAME_BYTES * self._link.byte_s)
            left = min(until, deadline) - now
            if left <= 0:
                return None
            self._frames.extend(self._decoder.feed(self._link.receive(left)))

    def _open(self, frame: Frame) -> bytes | None:
        """The rest of a reply. Raises what its status and nonce say."""
        try:
            reply = parse_reply(frame)
        except LinkCorrupt:
            return None
        if self.nonce is not None and reply.nonce != self.nonce:
            raise Restarted(None)
        self.nonce = reply.nonce
        if reply.status == Status.DONE:
            return reply.rest
        raise _refusal(frame.op & ~REPLY, reply.status, reply.rest)

    def _hear(self, frame: Frame, asked: int) -> bool:
        """Take in an event; True for a heartbeat of what was asked. Raises Restarted, DeviceCrashed."""
        try:
            event = parse_event(frame)
        except LinkCorrupt:
            return False
        if isinstance(event, Alive):
            return event.op == asked
        if self.nonce is None:  # a boot that nobody has talked to yet
            return False
        if isinstance(event, Boot) and event.nonce != self.nonce:
            raise Restarted(event.cause)
        if isinstance(event, Fault):
            raise DeviceCrashed(describe(event))
        return False


def _refusal(op: int, status: int, rest: bytes) -> DeviceError:
    name = Op(op).name if op in list(Op) else f"0x{op:02x}"
    if status == Status.INPUT_USED:
        return InputUsed("the inputs were used up by a run")
    if status == Status.KERNEL_ERROR:
        return KernelError(f"a kernel reported error {int.from_bytes(rest[:4], 'little', signed=True)}")
    if status == Status.STOPPED:
        return DeviceTimeout(f"{name} was stopped")
    said = rest.decode("ascii", errors="replace")
    words = {
        Status.UNKNOWN_OP: "the firmware does not know it",
        Status.OUT_OF_RANGE: "out of range",
        Status.NO_NETWORK: "there is no such network in the image",
    }
    return Refused(
        f"{name} was refused: {words.get(Status(status)) if status in list(Status) else status} {said}".strip()
    )


def _cause(cause: int) -> str:
    return ResetCause(cause).name.lower() if cause in list(ResetCause) else f"cause {cause}"
