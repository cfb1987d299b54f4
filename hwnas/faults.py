"""A seeded proxy that spoils the line between a host and a board: a public tool for tests of boards and runners.

It stands between a pseudo-terminal (or a socket on loopback) that the host opens and the socket of a board, and does to
the bytes what `faults` say: the same seed spoils the same bytes in the same way. It knows the frames of the firmware's
binary dialect, so that a fault can strike at a certain request, or change what a reply says.

    with FaultProxy("socket://127.0.0.1:4000", seed=1) as proxy:
        proxy.faults = [Noise("drop", 0.01), AtRequest(Op.RUN, unplug(0.2))]
        ...  # a lab file with  serial: {proxy.where}
"""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import random
import select
import shutil
import socket
import tempfile
import threading
import time
import tty
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from hwnas.errors import LinkCorrupt
from hwnas.firmware.codes import REPLY
from hwnas.firmware.frames import Frame, decode, encode

Direction = Literal["board", "host"]
PIECE = 4096


class Fault(Protocol):
    """Changes bytes on their way to the board or to the host."""

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes: ...


@dataclass
class Noise:
    """Bytes that are lost, changed, doubled, swapped with the next, or made up, each with probability `rate`."""

    kind: Literal["drop", "flip", "duplicate", "reorder", "garbage"]
    rate: float

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
        out = bytearray()
        for byte in data:
            if proxy.random.random() >= self.rate:
                out.append(byte)
                continue
            proxy.counts[self.kind] += 1
            if self.kind == "flip":
                out.append(byte ^ 1 << proxy.random.randrange(8))
            elif self.kind == "duplicate":
                out += bytes([byte, byte])
            elif self.kind == "garbage":
                out += bytes([byte]) + proxy.random.randbytes(proxy.random.randint(1, 8))
            elif self.kind == "reorder" and out:
                out.insert(len(out) - 1, byte)
        return bytes(out)


@dataclass
class Delay:
    """Everything behind a piece waits up to `seconds`, with probability `rate` for each piece."""

    rate: float
    seconds: float

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
        if proxy.random.random() < self.rate:
            proxy.counts["delay"] += 1
            time.sleep(proxy.random.uniform(0, self.seconds))
        return data


@dataclass
class WrongBaud:
    """Both ends sample at different rates: other bytes arrive, and another number of them."""

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
        proxy.counts["wrong baud"] += 1
        return proxy.random.randbytes(max(1, round(len(data) * 0.6)))


@dataclass
class Silence:
    """Nothing passes; where `to` is given, only in that direction."""

    to: Direction | None = None

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
        if self.to not in (None, to):
            return data
        proxy.counts["silence"] += 1
        return b""


Action = Callable[["FaultProxy"], None]


@dataclass
class AtRequest:
    """Does something when a request passes: at the `nth` one of that operation, and at as many after it as `times`."""

    op: int
    action: Action
    nth: int = 1
    times: int = 1
    _pieces: bytearray = field(default_factory=bytearray, repr=False)
    _seen: int = 0

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
        if to == "board":
            for frame in _frames(self._pieces, data):
                if isinstance(frame, Frame) and frame.op == self.op:
                    self._seen += 1
                    if self.nth <= self._seen < self.nth + self.times:
                        proxy.counts["at request"] += 1
                        self.action(proxy)
        return data


@dataclass
class Rewrite:
    """Changes the replies to an operation, at most `times` of them; their CRC is right again."""

    op: int
    change: Callable[[Frame], Frame]
    times: int = 1 << 30
    _pieces: bytearray = field(default_factory=bytearray, repr=False)

    def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
        if to == "board":
            return data
        out = b""
        for piece in _frames(self._pieces, data):
            if isinstance(piece, bytes):
                out += b"\0" + piece + b"\0"
                continue
            if piece.op == self.op | REPLY and self.times > 0:
                self.times -= 1
                proxy.counts["rewrite"] += 1
                piece = self.change(piece)
            out += encode(piece)
        return out


def unplug(seconds: float) -> Action:
    """The host's end of the line goes away, and comes back after some seconds."""
    return lambda proxy: proxy.unplug(seconds)


def inject(frame: Frame) -> Action:
    """The board is sent a frame that the host knows nothing of."""
    return lambda proxy: proxy.to_board(encode(frame))


def after(seconds: float, action: Callable[[], object]) -> Action:
    """Something that happens a while later, such as a reset in mid-run."""

    def start(proxy: FaultProxy) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()
        proxy.timers.append(timer)

    return start


class FaultProxy:
    """Passes bytes between the host, which opens `where`, and a board's socket; `faults` may be changed at any time.

    board: `socket://host:port`. host: what the host opens, a pseudo-terminal or a socket on loopback.
    """

    def __init__(self, board: str, *, seed: int, host: Literal["pty", "socket"] = "pty") -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.timers: list[threading.Timer] = []
        self.faults: Sequence[Fault] = ()
        self._address = urlsplit(board)
        self._folder = Path(tempfile.mkdtemp(prefix="hwnas-faults-"))
        self._server = socket.create_server(("127.0.0.1", 0)) if host == "socket" else None
        self._host = self._slave = -1
        self._board: socket.socket | None = None
        self._wake, self._alarm = os.pipe()
        self._ended = threading.Event()
        self._lock = threading.RLock()
        if self._server is not None:
            self.where = f"socket://127.0.0.1:{self._server.getsockname()[1]}"
        else:
            self.where = str(self._folder / "board")
            self._plug_in()
        self._thread = threading.Thread(target=self._pass_on, daemon=True, name="fault proxy")
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def reseed(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        """Begin another case: a new seed, other faults, counts at zero."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        self.faults = ()
        self.random.seed(seed)
        self.counts.clear()
        self.faults = faults

    def to_board(self, data: bytes) -> None:
        """Send bytes to the board, past all faults."""
        with self._lock:
            board = self._reach_board()
            if board is not None:
                with contextlib.suppress(OSError):
                    board.sendall(data)

    def unplug(self, seconds: float) -> None:
        """Take the host's end away for some seconds."""
        self.counts["unplug"] += 1
        self._unplug()
        time.sleep(seconds)
        if self._server is None:
            self._plug_in()

    def close(self) -> None:
        """End the thread and close both ends; safe to call twice."""
        if self._ended.is_set():
            return
        self._ended.set()
        os.write(self._alarm, b".")
        self._thread.join()
        for timer in self.timers:
            timer.cancel()
        self._unplug()
        self._lose_board()
        if self._server is not None:
            self._server.close()
        for end in (self._wake, self._alarm):
            os.close(end)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _plug_in(self) -> None:
        self._host, self._slave = pty.openpty()  # our end of the slave stays open, so that the master sees no hang-up
        tty.setraw(self._slave)
        os.set_blocking(self._host, False)
        fresh = self._folder / "fresh"
        fresh.symlink_to(os.ttyname(self._slave))
        fresh.rename(self.where)

    def _unplug(self) -> None:
        if self._server is None:
            Path(self.where).unlink(missing_ok=True)
        for end in (self._host, self._slave):
            if end >= 0:
                os.close(end)
        self._host = self._slave = -1

    def _reach_board(self) -> socket.socket | None:
        if self._board is None:
            with contextlib.suppress(OSError):
                self._board = socket.create_connection((self._address.hostname, self._address.port or 0), timeout=1)
                self._board.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._board

    def _lose_board(self) -> None:
        with self._lock:
            if self._board is not None:
                self._board.close()
            self._board = None

    def _pass_on(self) -> None:
        while not self._ended.is_set():
            board = self._reach_board()
            ends: list[Any] = [self._wake, *([self._host] if self._host >= 0 else []), *([board] if board else [])]
            if self._server is not None and self._host < 0:
                ends.append(self._server)
            try:
                ready = select.select(ends, [], [], 0.1 if board is None else None)[0]
            except (OSError, ValueError):
                continue
            if self._server is not None and self._server in ready:
                self._host = self._server.accept()[0].detach()
                os.set_blocking(self._host, False)
            if self._host in ready:
                self._from_host()
            if board is not None and board in ready:
                self._from_board(board)

    def _from_host(self) -> None:
        try:
            data = os.read(self._host, PIECE)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EIO):
                return
            data = b""
        if not data:
            self._unplug()  # a socket that the host closed; it may come again
            return
        if spoiled := self._spoil(data, "board"):
            self.to_board(spoiled)

    def _from_board(self, board: socket.socket) -> None:
        try:
            data = board.recv(PIECE)
        except OSError:
            data = b""
        if not data:
            self._lose_board()
            return
        spoiled = self._spoil(data, "host")
        if spoiled and self._host >= 0:
            with contextlib.suppress(OSError):  # nobody reads: a real line would lose it as well
                os.write(self._host, spoiled)

    def _spoil(self, data: bytes, to: Direction) -> bytes:
        for fault in self.faults:
            if data:
                data = fault.spoil(data, to, self)
        return data


def _frames(pending: bytearray, data: bytes) -> list[Frame | bytes]:
    """The frames that end in `data`, and as bytes what is none; `pending` keeps the rest."""
    pending += data
    *ended, rest = bytes(pending).split(b"\0")
    pending[:] = rest
    found: list[Frame | bytes] = []
    for piece in filter(None, ended):
        try:
            found.append(decode(piece))
        except LinkCorrupt:
            found.append(piece)
    return found
