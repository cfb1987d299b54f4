"""The smallest client of an emulated board: one socket, frames, no retries. The product's own is the firmware runner."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hwnas.core.device import Device
from hwnas.firmware.frames import Decoder, Frame, encode
from hwnas.firmware.protocol import Alive, Boot, Fault, Reply, Request, parse_event, parse_reply

T = TypeVar("T")
PATIENCE_S = 30.0


class QemuBoard:
    """An emulated board whose serial line is a socket; what came in is in `text` and in `events`."""

    def __init__(self, device: Device, elf: Path, folder: Path) -> None:
        assert device.emulator is not None
        path = folder / "uart"
        serial = f"socket,id=u0,path={path},server=on,wait=on"
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-system-arm", "-M", device.emulator.machine, "-nographic",
             "-monitor", "none", "-kernel", str(elf), "-icount", f"shift={device.emulator.shift}",
             "-chardev", serial, "-serial", "chardev:u0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._socket = socket.socket(socket.AF_UNIX)
        self._connect(path)
        self._decoder, self._seq = Decoder(), 0
        self.text = b""
        self.events: list[Boot | Alive | Fault] = []
        self._replies: list[Frame] = []

    def _connect(self, path: Path) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._socket.connect(str(path))
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, "QEMU did not start"
                time.sleep(0.02)

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def listen(self, seconds: float = 0.05) -> None:
        """Take in what comes within so many seconds; returns after the first piece."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return
        data = self._socket.recv(4096)
        self.text += data
        for frame in self._decoder.feed(data):
            if frame.seq:
                self._replies.append(frame)
            elif (event := parse_event(frame)) is not None:
                self.events.append(event)

    def reply(self, request: Request[T], seconds: float = PATIENCE_S) -> Reply:
        """The reply to a request, whatever its status."""
        self._seq = self._seq % 255 + 1
        self.send(encode(Frame(self._seq, request.op, request.body())))
        return self.answer(self._seq, request.op, seconds)

    def answer(self, seq: int, op: int, seconds: float = PATIENCE_S) -> Reply:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for frame in self._replies:
                if (frame.seq, frame.op) == (seq, op | 0x80):
                    self._replies.remove(frame)
                    return parse_reply(frame)
            self.listen()
        raise AssertionError(f"no reply to op {op:#x}; events {self.events}, text {self.text[-200:]!r}")

    def ask(self, request: Request[T], seconds: float = PATIENCE_S) -> T:
        """The parsed reply of a request that has to be done."""
        reply = self.reply(request, seconds)
        assert reply.status == 0, (request, reply)
        return request.parse(reply.rest)

    def event(self, kind: type[T], seconds: float = PATIENCE_S) -> T:
        """The next event of a kind, taken out of `events` with those before it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, kind):
                    return event
            self.listen()
        raise AssertionError(f"no {kind.__name__}; text {self.text[-200:]!r}")

    def command(self, text: str) -> str:
        """What a text command is answered with."""
        before = len(self.text)
        self.send(text.encode())
        deadline = time.monotonic() + PATIENCE_S
        while not self.text[before:].endswith(b"m-ready\r\n"):
            assert time.monotonic() < deadline, self.text[before:]
            self.listen()
        return self.text[before:].decode()


@contextmanager
def on_a_pty(device: Device, elf: Path) -> Iterator[str]:
    """The path of a pseudo-terminal behind which an emulated board runs an image, until the end of the block."""
    assert device.emulator is not None
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "qemu-system-arm", "-M", device.emulator.machine, "-nographic",
         "-monitor", "none", "-kernel", str(elf), "-icount", f"shift={device.emulator.shift}",
         "-chardev", "pty,id=u0", "-serial", "chardev:u0"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[4]  # char device redirected to /dev/pts/N (label u0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def booted(device: Device, elf: Path) -> Iterator[QemuBoard]:
    """An emulated board that runs an image, until the end of the block."""
    folder = Path(tempfile.mkdtemp())  # a socket's path must be short
    try:
        board = QemuBoard(device, elf, folder)
        try:
            yield board
        finally:
            board.close()
    finally:
        shutil.rmtree(folder)
