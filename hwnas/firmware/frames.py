"""Frames of the binary dialect: COBS, a sequence number, an operation, a body and a CRC-32 (firmware/PROTOCOL.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hwnas.errors import LinkCorrupt
from hwnas.firmware.codes import MAX_BODY

RESYNC = b"\0\0"
_MAX_ENCODED = 1 + 2 + MAX_BODY + 4  # one COBS run byte, seq and op, body, CRC


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: `seq` 0 is an event, 1 to 255 a request or its reply; the body holds at most MAX_BODY bytes."""

    seq: int
    op: int
    body: bytes = b""


def cobs_encode(data: bytes) -> bytes:
    """Consistent Overhead Byte Stuffing (Cheshire and Baker 1999) of at most 253 bytes, without the zeros around it."""
    return b"".join(bytes([len(run) + 1]) + run for run in data.split(b"\0"))


def cobs_decode(data: bytes) -> bytes:
    """What `cobs_encode` encoded. Raises LinkCorrupt for bytes that it cannot have made."""
    runs, at = [], 0
    while at < len(data):
        end = at + data[at]
        if data[at] == 0 or end > len(data) or 0 in data[at + 1 : end]:
            raise LinkCorrupt(f"the frame's byte {at} is no COBS run length")
        runs.append(data[at + 1 : end])
        at = end
    return b"\0".join(runs)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame on the line, zeros at both ends. Raises ValueError for a frame that no line can carry."""
    if not 0 <= frame.seq <= 255 or not 0 <= frame.op <= 255 or len(frame.body) > MAX_BODY:
        raise ValueError(f"seq {frame.seq}, op {frame.op} and {len(frame.body)} bytes of body make no frame")
    content = bytes([frame.seq, frame.op]) + frame.body
    return b"\0" + cobs_encode(content + struct.pack("<I", zlib.crc32(content))) + b"\0"


def decode(encoded: bytes) -> Frame:
    """The frame between two zeros. Raises LinkCorrupt for bytes that are too long, no COBS or fail their CRC."""
    if len(encoded) > _MAX_ENCODED:
        raise LinkCorrupt(f"a frame of {len(encoded)} bytes; the longest has {_MAX_ENCODED}")
    content = cobs_decode(encoded)
    if len(content) < 6:
        raise LinkCorrupt(f"a frame of {len(content)} bytes is too short for its CRC")
    if struct.pack("<I", zlib.crc32(content[:-4])) != content[-4:]:
        raise LinkCorrupt("a frame whose CRC is wrong")
    return Frame(content[0], content[1], content[2:-4])


class Decoder:
    """Frames out of a stream in pieces of any size. What is no frame is dropped and counted in `corrupt`."""

    def __init__(self) -> None:
        self.corrupt = 0
        self._pending = b""
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that end in `data`, in order."""
        *ended, rest = data.split(b"\0")
        for piece in ended:
            encoded, too_long = self._pending + piece, self._too_long
            self._pending, self._too_long = b"", False
            if too_long:
                self.corrupt += 1
            elif encoded:
                try:
                    yield decode(encoded)
                except LinkCorrupt:
                    self.corrupt += 1
        self._pending += rest
        if len(self._pending) > _MAX_ENCODED:
            self._pending, self._too_long = b"", True

    def reset(self) -> None:
        """Forget a frame that has begun."""
        self._pending, self._too_long = b"", False
