"""The frames that C and Python both have to encode and decode: `python -m tests.runners.vectors` writes vectors.json."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from hwnas.firmware.codes import MAX_BODY, REPLY, Op, Provocation, Status
from hwnas.firmware.frames import RESYNC, Frame, cobs_encode, encode
from hwnas.firmware.protocol import (
    Check,
    Hello,
    Info,
    Kernels,
    Loop,
    Name,
    Provoke,
    Read,
    Request,
    Reset,
    Run,
    Stop,
    Write,
)

FILE = Path(__file__).resolve().parents[2] / "firmware" / "vectors.json"
NONCE = 0x00C0FFEE

REQUESTS: dict[str, Request[Any]] = {
    "hello": Hello(),
    "info": Info(3),
    "write": Write(1, 0, 0x10203, bytes(range(8))),
    "write zeros": Write(0, 0, 0, bytes(64)),
    "write as much as fits": Write(0, 1, 466, bytes(i % 256 for i in range(MAX_BODY - Write.overhead))),
    "check input": Check(0, 0),
    "check output": Check(0, 2, output=True),
    "run once with the inputs as written": Run(0, 0, 1, pattern=False),
    "run with the pattern": Run(7, 1, 24),
    "run and time the kernels": Run(256, 1, 5, kernels=True),
    "read": Read(0, 0, 235, 235),
    "kernels": Kernels(0, 29),
    "loop": Loop(0, 10_000),
    "reset": Reset(),
    "stop": Stop(),
    "name": Name(0, 1),
    "provoke a hard fault": Provoke(Provocation.HARD_FAULT),
    "provoke a brown-out": Provoke(Provocation.BROWN_OUT, 5),
}


def reply(op: Op, status: Status, rest: bytes = b"") -> bytes:
    return struct.pack("<BI", status, NONCE) + rest


REPLIES: dict[str, tuple[Op, bytes]] = {
    "hello done": (
        Op.HELLO,
        reply(
            Op.HELLO,
            Status.DONE,
            struct.pack("<BHBIBHHI", 1, 0x0102, 2, 25_000_000, 1, 3, MAX_BODY, 4096)
            + bytes(range(10))
            + b"board-000001"
            + b"mps2",
        ),
    ),
    "info done": (
        Op.INFO,
        reply(
            Op.INFO,
            Status.DONE,
            struct.pack("<BBHIIB", 1, 1, 2, 4096, 512, 4)
            + b"tiny"
            + struct.pack("<BBII4i", 1, 4, 0, 64, 1, 1, 8, 8)
            + struct.pack("<BBII2i", 0, 2, 64, 40, 1, 10),
        ),
    ),
    "write done": (Op.WRITE, reply(Op.WRITE, Status.DONE)),
    "check done": (Op.CHECK, reply(Op.CHECK, Status.DONE, struct.pack("<I", 0xCBF43926))),
    "run done": (
        Op.RUN,
        reply(Op.RUN, Status.DONE, struct.pack("<HHQII2Q", 3, 1, 12, 640, 256, 201_550, 2**33 + 1)),
    ),
    "read done": (Op.READ, reply(Op.READ, Status.DONE, b"\0\1\0\2\0")),
    "kernels done": (Op.KERNELS, reply(Op.KERNELS, Status.DONE, struct.pack("<H2Q", 2, 100_000, 101_550))),
    "loop done": (Op.LOOP, reply(Op.LOOP, Status.DONE, struct.pack("<IQ", 1234, 250_000_017))),
    "reset done": (Op.RESET, reply(Op.RESET, Status.DONE)),
    "stop done": (Op.STOP, reply(Op.STOP, Status.DONE)),
    "name done": (Op.NAME, reply(Op.NAME, Status.DONE, b"Conv+Clip")),
    "unknown op": (Op.PROVOKE, reply(Op.PROVOKE, Status.UNKNOWN_OP)),
    "out of range": (Op.WRITE, reply(Op.WRITE, Status.OUT_OF_RANGE, b"offset")),
    "no such network": (Op.INFO, reply(Op.INFO, Status.NO_NETWORK, b"3")),
    "input used": (Op.RUN, reply(Op.RUN, Status.INPUT_USED)),
    "kernel error": (Op.RUN, reply(Op.RUN, Status.KERNEL_ERROR, struct.pack("<i", -2))),
    "stopped": (Op.LOOP, reply(Op.LOOP, Status.STOPPED)),
}

EVENTS: dict[str, tuple[Op, bytes]] = {
    "boot": (Op.BOOT, struct.pack("<IB", NONCE, 4)),
    "alive": (Op.ALIVE, struct.pack("<BI", Op.RUN, 7)),
    "fault": (Op.FAULT, struct.pack("<BIIIII", 1, 0x0800_1234, 0x0800_1001, 0x0002_0000, 0x4000_0000, 0)),
}


def frames() -> dict[str, Frame]:
    """Every frame by name; requests and their replies share sequence numbers as they would on a line."""
    found = {}
    for i, (name, request) in enumerate(REQUESTS.items()):
        found[f"request: {name}"] = Frame(i + 1, request.op, request.body())
    for i, (name, (op, body)) in enumerate(REPLIES.items()):
        found[f"reply: {name}"] = Frame(255 - i, op | REPLY, body)
    for name, (op, body) in EVENTS.items():
        found[f"event: {name}"] = Frame(0, op, body)
    found["largest body, no zeros"] = Frame(255, 0x3F, b"\xff" * MAX_BODY)
    found["largest body, all zeros"] = Frame(1, 0x3F, bytes(MAX_BODY))
    return found


def corrupt() -> dict[str, bytes]:
    """Bytes between two zeros that are no frame."""
    good = encode(frames()["request: write"])[1:-1]
    too_long = Frame(1, 3, bytes([7]) * (MAX_BODY + 1))
    content = bytes([too_long.seq, too_long.op]) + too_long.body
    return {
        "a flipped bit": bytes([*good[:9], good[9] ^ 0x20, *good[10:]]),
        "a flipped bit in the CRC": good[:-1] + bytes([good[-1] ^ 1]),
        "a lost byte": good[:5] + good[6:],
        "a byte twice": good[:5] + good[4:],
        "the last byte lost": good[:-1],
        "a run length beyond the end": bytes([200]) + good[1:],
        "one byte": b"\x01",
        "a CRC alone": cobs_encode(struct.pack("<I", zlib.crc32(b""))),
        "a sequence number alone": cobs_encode(b"\x01" + struct.pack("<I", zlib.crc32(b"\x01"))),
        "one byte of body too many": cobs_encode(content + struct.pack("<I", zlib.crc32(content))),
        "text": b"name%",
        "256 bytes of noise": bytes((i * 37 + 11) % 255 + 1 for i in range(256)),
    }


def streams() -> dict[str, tuple[bytes, list[str]]]:
    """Bytes of a line, and the names of the frames that are in them."""
    known = {name: encode(frame) for name, frame in frames().items()}
    hello, write = known["request: hello"], known["request: write"]
    bad = b"\0" + corrupt()["a flipped bit"] + b"\0"
    return {
        "two frames, zeros at both ends of each": (hello + write, ["request: hello", "request: write"]),
        "two frames that share a zero": (hello + write[1:], ["request: hello", "request: write"]),
        "resynchronise in mid-frame": (write[:9] + RESYNC + hello, ["request: hello"]),
        "many zeros": (bytes(40) + hello + bytes(40), ["request: hello"]),
        "corrupt, then good": (bad + hello, ["request: hello"]),
        "a frame that never ends, then a good one": (b"\0" + b"\x55" * 1000 + hello, ["request: hello"]),
        "a frame without its end": (hello + write[:-1], ["request: hello"]),
    }


def document() -> dict[str, Any]:
    return {
        "about": "Frames of PROTOCOL.md. frames: body <-> frame. corrupt: no frame. streams: the frames in them, in order.",
        "frames": [
            {"name": name, "seq": f.seq, "op": f.op, "body": f.body.hex(), "frame": encode(f).hex()}
            for name, f in frames().items()
        ],
        "corrupt": [{"name": name, "bytes": data.hex()} for name, data in corrupt().items()],
        "streams": [{"name": n, "bytes": data.hex(), "frames": inside} for n, (data, inside) in streams().items()],
    }


def text() -> str:
    return json.dumps(document(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
