"""A TCP proxy that spoils what passes it, once, at a place drawn from a seed: what a bad link does to a protocol."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

CHUNK = 1 << 14


@dataclass
class Fault:
    """What happens after `after` bytes in one direction: flip, garbage, drop, duplicate, delay, stall, cut, reset."""

    kind: str
    outward: bool
    after: int
    random: random.Random
    fired: threading.Event = field(default_factory=threading.Event)


class TcpProxy:
    """Passes connections on to `port` of this computer; `fault` is what happens to the next bytes."""

    def __init__(self, port: int = 0) -> None:
        self.to = port
        self.fault: Fault | None = None
        self._lock = threading.Lock()
        self._passed = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fault: Fault) -> None:
        """Let a fault happen to what passes from now on."""
        with self._lock:
            self._passed, self.fault = 0, fault

    def heal(self) -> None:
        """Nothing more happens, and what is stalled is cut."""
        with self._lock:
            stalled, self.fault = self.fault is not None and self.fault.kind == "stall", None
        if stalled:
            self.cut()

    def cut(self) -> None:
        """Close every connection."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.to), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._open.add(end)
                for source, sink, outward in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=(source, sink, outward), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(self._spoil(data, outward, source))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)

    def _spoil(self, data: bytes, outward: bool, source: socket.socket) -> bytes:
        """The bytes that arrive instead of these. Raises OSError where the connection ends."""
        with self._lock:
            fault = self.fault
            if fault is None or fault.outward is not outward:
                return data
            begin, self._passed = self._passed, self._passed + len(data)
            if fault.fired.is_set() and fault.kind != "stall":
                return data
            if not fault.fired.is_set() and self._passed <= fault.after:
                return data
            at = max(0, fault.after - begin)
            fault.fired.set()
        return self._change(fault, data, at, source)

    def _change(self, fault: Fault, data: bytes, at: int, source: socket.socket) -> bytes:
        count = fault.random.randint(1, 40)
        head, tail = data[:at], data[at:]
        match fault.kind:
            case "flip":
                return head + bytes([tail[0] ^ (1 << fault.random.randrange(8))]) + tail[1:]
            case "garbage":
                return head + fault.random.randbytes(count) + tail
            case "drop":
                return head + tail[count:]
            case "duplicate":
                return head + tail[:count] + tail
            case "delay":
                time.sleep(fault.random.uniform(0.05, 0.3))
                return data
            case "stall":
                return b""
            case "reset":
                source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionResetError
            case _:
                raise ConnectionAbortedError
