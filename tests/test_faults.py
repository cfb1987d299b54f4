"""The fault proxy itself: what it passes on, what it spoils, and that the same seed spoils the same bytes."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from hwnas.faults import AtRequest, Delay, FaultProxy, Noise, Rewrite, Silence, WrongBaud, after, inject, unplug
from hwnas.firmware.codes import REPLY, Op
from hwnas.firmware.frames import Decoder, Frame, encode

DATA = bytes(random.Random(0).randbytes(4000))
KINDS = ("drop", "flip", "duplicate", "reorder", "garbage")


class Echo:
    """A board that sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self.server.getsockname()[1]}"
        self.received = b""
        self.connection: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self.connection, _ = self.server.accept()
                while data := self.connection.recv(4096):
                    self.received += data
                    self.connection.sendall(data)
            except OSError:
                if self.server.fileno() < 0:
                    return

    def close(self) -> None:
        self.server.close()
        if self.connection is not None:
            self.connection.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


def through(proxy: FaultProxy, data: bytes, wait_s: float = 0.2) -> bytes:
    with serial.serial_for_url(proxy.where, baudrate=115200, timeout=wait_s) as port:
        received = b""
        for at in range(0, len(data), 500):
            port.write(data[at : at + 500])
            received += port.read(500)
        return received + port.read(4096)


@pytest.mark.parametrize("host", ["pty", "socket"])
def test_without_faults_every_byte_passes(echo: Echo, host: str) -> None:
    with FaultProxy(echo.url, seed=0, host=host) as proxy:  # type: ignore[arg-type]
        assert through(proxy, DATA) == DATA
        assert through(proxy, DATA[:100]) == DATA[:100]  # the host may open it again
        assert not proxy.counts


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_spoils_the_same_bytes(kind: str, echo: Echo) -> None:
    def spoiled(seed: int) -> bytes:
        with FaultProxy(echo.url, seed=seed) as proxy:
            noise = Noise(kind, 0.02)  # type: ignore[arg-type]
            result = b"".join(noise.spoil(DATA[i : i + 100], "board", proxy) for i in range(0, len(DATA), 100))
            assert proxy.counts[kind] > 20
            return result

    assert spoiled(1) == spoiled(1) != spoiled(2)
    assert spoiled(1) != DATA
    length = {"drop": -1, "flip": 0, "duplicate": 1, "reorder": 0, "garbage": 1}[kind]
    assert (len(spoiled(1)) - len(DATA) > 0) == (length > 0)
    assert (len(spoiled(1)) - len(DATA) < 0) == (length < 0)


def test_noise_changes_what_arrives(echo: Echo) -> None:
    with FaultProxy(echo.url, seed=3) as proxy:
        proxy.faults = [Noise("flip", 0.01)]
        assert len(through(proxy, DATA)) == len(DATA)
        assert echo.received != DATA
        proxy.reseed(4)
        echo.received = b""
        assert through(proxy, DATA) == DATA


def test_silence_and_another_baud_rate(echo: Echo) -> None:
    with FaultProxy(echo.url, seed=0) as proxy:
        proxy.faults = [Silence("host")]
        assert through(proxy, b"abc") == b""
        assert echo.received == b"abc"
        proxy.faults = [Silence()]
        assert through(proxy, b"def") == b""
        assert echo.received == b"abc"
        proxy.faults = [WrongBaud()]
        assert through(proxy, DATA[:500]) != DATA[:500]
        assert len(echo.received) < 500


def test_a_delay_holds_up_what_follows(echo: Echo) -> None:
    with FaultProxy(echo.url, seed=0) as proxy:
        proxy.faults = [Delay(1.0, 0.3)]
        began = time.monotonic()
        assert through(proxy, b"abc", 1.0)[:3] == b"abc"
        assert time.monotonic() - began > 0.05


def test_an_action_strikes_at_a_certain_request(echo: Echo) -> None:
    struck: list[int] = []
    with FaultProxy(echo.url, seed=0) as proxy:
        proxy.faults = [AtRequest(Op.RUN, lambda p: struck.append(len(struck)), nth=2, times=2)]
        frames = [Frame(i + 1, op) for i, op in enumerate([Op.RUN, Op.HELLO, Op.RUN, Op.RUN, Op.RUN])]
        for at, frame in enumerate(frames):
            through(proxy, encode(frame), 0.05)
            assert len(struck) == [0, 0, 1, 2, 2][at]


def test_a_frame_is_injected_and_an_action_comes_later(echo: Echo) -> None:
    late = threading.Event()
    with FaultProxy(echo.url, seed=0) as proxy:
        proxy.faults = [AtRequest(Op.RUN, inject(Frame(0xEE, Op.RESET))), AtRequest(Op.RUN, after(0.05, late.set))]
        through(proxy, encode(Frame(1, Op.RUN)))
        assert list(Decoder().feed(echo.received)) == [Frame(0xEE, Op.RESET), Frame(1, Op.RUN)]
        assert late.wait(2)


def test_replies_are_rewritten_with_a_right_crc(echo: Echo) -> None:
    with FaultProxy(echo.url, seed=0) as proxy:
        proxy.faults = [Rewrite(Op.RUN, lambda f: Frame(f.seq, f.op, b"other"), times=1)]
        sent = [Frame(1, Op.RUN | REPLY, b"mine"), Frame(2, Op.READ | REPLY, b"x"), Frame(3, Op.RUN | REPLY, b"mine")]
        answer = through(proxy, b"m-ready\r\n" + b"".join(map(encode, sent)))
        assert list(Decoder().feed(answer)) == [Frame(1, Op.RUN | REPLY, b"other"), *sent[1:]]
        assert b"m-ready\r\n" in answer


def test_the_line_is_unplugged_and_plugged_in_again(echo: Echo) -> None:
    with FaultProxy(echo.url, seed=0) as proxy:
        port = serial.Serial(proxy.where, timeout=1)
        proxy.faults = [AtRequest(Op.RUN, unplug(0.3))]
        port.write(encode(Frame(1, Op.RUN)))
        time.sleep(0.1)
        assert not Path(proxy.where).exists()
        with pytest.raises((OSError, serial.SerialException)):
            while port.read(100):
                pass
            port.write(b"x")
        port.close()
        deadline = time.monotonic() + 5
        while not Path(proxy.where).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        proxy.faults = []
        assert through(proxy, b"again") == b"again"


def test_a_board_that_goes_away_may_come_back(echo: Echo) -> None:
    with FaultProxy(echo.url, seed=0) as proxy:
        assert through(proxy, b"one") == b"one"
        assert echo.connection is not None
        echo.connection.shutdown(socket.SHUT_RDWR)
        time.sleep(0.3)
        assert through(proxy, b"two") == b"two"


def test_it_leaves_nothing_behind(echo: Echo) -> None:
    proxy = FaultProxy(echo.url, seed=0)
    folder = Path(proxy.where).parent
    threads = threading.active_count()
    proxy.close()
    proxy.close()
    assert not folder.exists()
    assert threading.active_count() == threads - 1
