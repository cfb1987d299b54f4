"""The binary dialect: vectors.json is true, codecs invert each other, and what is no frame gives none."""

from __future__ import annotations

import json
import struct

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import LinkCorrupt
from hwnas.firmware.codes import MAX_BODY, REPLY, Op, Status
from hwnas.firmware.frames import RESYNC, Decoder, Frame, cobs_decode, cobs_encode, decode, encode
from hwnas.firmware.protocol import (
    Alive,
    Boot,
    Fault,
    Hello,
    Info,
    Kernels,
    KernelTicks,
    Loop,
    LoopReport,
    Name,
    Run,
    RunReport,
    TensorInfo,
    Write,
    parse_event,
    parse_reply,
)
from tests.runners import vectors

FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=MAX_BODY))


def test_the_file_of_vectors_is_what_this_package_encodes() -> None:
    assert vectors.FILE.read_text() == vectors.text(), "run `python -m tests.runners.vectors`"


@pytest.mark.parametrize("vector", json.loads(vectors.FILE.read_text())["frames"], ids=lambda v: v["name"])
def test_frames_of_the_vectors_decode(vector: dict[str, object]) -> None:
    frame = Frame(int(str(vector["seq"])), int(str(vector["op"])), bytes.fromhex(str(vector["body"])))
    assert list(Decoder().feed(bytes.fromhex(str(vector["frame"])))) == [frame]


@pytest.mark.parametrize("name", vectors.corrupt())
def test_corrupt_vectors_give_no_frame(name: str) -> None:
    decoder = Decoder()
    assert list(decoder.feed(b"\0" + vectors.corrupt()[name] + b"\0")) == []
    assert decoder.corrupt == 1


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("name", vectors.streams())
def test_streams_give_their_frames_however_they_are_cut(name: str, size: int) -> None:
    data, inside = vectors.streams()[name]
    decoder, found = Decoder(), []
    for at in range(0, len(data), size):
        found += decoder.feed(data[at : at + size])
    known = vectors.frames()
    assert found == [known[n] for n in inside]


@given(FRAMES)
def test_decoding_inverts_encoding(frame: Frame) -> None:
    encoded = encode(frame)
    assert encoded[0] == encoded[-1] == 0
    assert 0 not in encoded[1:-1]
    assert decode(encoded[1:-1]) == frame


@given(st.binary(max_size=253))
def test_cobs_is_that_of_the_cobs_package(data: bytes) -> None:
    assert cobs_encode(data) == cobs.encode(data)
    assert cobs_decode(cobs_encode(data)) == data


@given(st.lists(FRAMES, max_size=5), st.binary(max_size=300), st.integers(1, 50))
def test_noise_before_frames_costs_none_of_them(frames: list[Frame], noise: bytes, size: int) -> None:
    data = noise + RESYNC + b"".join(encode(f) for f in frames)
    decoder, found = Decoder(), []
    for at in range(0, len(data), size):
        found += decoder.feed(data[at : at + size])
    assert found[-len(frames) :] == frames or not frames


@given(FRAMES, st.data())
def test_no_flipped_or_lost_byte_makes_another_frame(frame: Frame, data: st.DataObject) -> None:
    encoded = bytearray(encode(frame)[1:-1])
    at = data.draw(st.integers(0, len(encoded) - 1))
    if data.draw(st.booleans()):
        encoded[at] ^= data.draw(st.integers(1, 255))
    else:
        del encoded[at]
    assert list(Decoder().feed(b"\0" + bytes(encoded) + b"\0")) == []


@given(st.binary(max_size=2000))
def test_the_decoder_survives_anything(data: bytes) -> None:
    list(Decoder().feed(data))


def test_a_frame_that_no_line_can_carry_is_refused() -> None:
    for frame in (Frame(256, 1), Frame(1, -1), Frame(1, 1, bytes(MAX_BODY + 1))):
        with pytest.raises(ValueError, match="make no frame"):
            encode(frame)


def rest(name: str) -> bytes:
    op, body = vectors.REPLIES[name]
    reply = parse_reply(Frame(1, op | REPLY, body))
    assert (reply.status, reply.nonce) == (Status.DONE, vectors.NONCE)
    return reply.rest


def test_replies_say_what_the_device_said() -> None:
    identity = Hello().parse(rest("hello done"))
    assert (identity.firmware, identity.counter, identity.counter_hz) == ((1, 2), 2, 25_000_000)
    assert (identity.image_id, identity.board_id, identity.port) == (bytes(range(10)), b"board-000001", "mps2")
    info = Info(0).parse(rest("info done"))
    assert info.inputs == (TensorInfo(1, 0, 64, (1, 1, 8, 8)),)
    assert info.outputs == (TensorInfo(0, 64, 40, (1, 10)),)
    assert (info.name, info.kernels, info.arena_bytes, info.workspace_bytes) == ("tiny", 2, 4096, 512)
    assert Run(0, 1, 2).parse(rest("run done")) == RunReport(3, 1, 12, 640, 256, (201_550, 2**33 + 1))
    assert Kernels(0, 0).parse(rest("kernels done")) == KernelTicks(2, (100_000, 101_550))
    assert Loop(0, 1).parse(rest("loop done")) == LoopReport(1234, 250_000_017)
    assert Name(0, 0).parse(rest("name done")) == "Conv+Clip"


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (Hello(), "hello done"),
        (Info(0), "info done"),
        (Run(0, 1, 2), "run done"),
        (Loop(0, 1), "loop done"),
        (Kernels(0, 0), "kernels done"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_length_that_lies_is_corrupt_whichever_way(request_: object, name: str) -> None:
    body = rest(name)
    for lie in (body[:-5], body + b"\0\0\0", b""):
        if name == "hello done" and len(lie) > 40:
            continue  # the rest is the port's name, of any length
        with pytest.raises(LinkCorrupt, match="reply to"):
            request_.parse(lie)  # type: ignore[attr-defined]


def test_a_plain_reply_has_no_rest() -> None:
    Write(0, 0, 0, b"x").parse(b"")
    with pytest.raises(LinkCorrupt, match="1 bytes more"):
        Write(0, 0, 0, b"x").parse(b"\0")
    with pytest.raises(LinkCorrupt, match="ends after 3 bytes"):
        parse_reply(Frame(1, Op.WRITE | REPLY, b"\0\0\0"))


def test_events_say_what_happened() -> None:
    events = {name: parse_event(Frame(0, op, body)) for name, (op, body) in vectors.EVENTS.items()}
    assert events["boot"] == Boot(vectors.NONCE, 4)
    assert events["alive"] == Alive(Op.RUN, 7)
    assert events["fault"] == Fault(1, 0x0800_1234, 0x0800_1001, 0x0002_0000, 0x4000_0000, 0)
    assert parse_event(Frame(0, 0x7F, b"?")) is None
    with pytest.raises(LinkCorrupt, match="event 0x40"):
        parse_event(Frame(0, Op.BOOT, struct.pack("<I", 1)))
