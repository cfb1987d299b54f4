"""A serial instrument on a pseudo-terminal: the thread, the pulling of its plug, and the end of both."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import threading
import time
import tty
from types import TracebackType
from typing import Protocol, TypeVar

SELF = TypeVar("SELF", bound="PtyInstrument")
TURN_S = 0.002
JOIN_S = 5.0


class Behaviour(Protocol):
    """What an instrument does: both are called from one thread, so that neither needs a lock."""

    def received(self, data: bytes) -> bytes:
        """Take in what the host sent, and answer."""
        ...

    def stream(self) -> bytes:
        """What has become due since the last call."""
        ...


class PtyInstrument:
    """Serves a behaviour at `port` until it is closed or unplugged; use it as a context."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name=f"emulator-{self.port}")
        self._thread.start()

    def unplug(self) -> None:
        """Pull the plug: the port is gone for whoever has it open."""
        self.close()

    def close(self) -> None:
        """End the instrument; safe to call twice."""
        self._stop.set()
        self._thread.join(JOIN_S)
        for name in ("_slave", "_master"):
            end = getattr(self, name)
            if end >= 0:
                with contextlib.suppress(OSError):
                    os.close(end)
                setattr(self, name, -1)

    def __enter__(self: SELF) -> SELF:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            readable, _, _ = select.select([self._master], [], [], TURN_S)
            if readable:
                with contextlib.suppress(BlockingIOError, OSError):  # OSError: nobody has the port open now
                    self._write(self._behaviour.received(os.read(self._master, 4096)))
            self._write(self._behaviour.stream())

    def _write(self, data: bytes) -> None:
        """Write all of it: a host that does not read makes the instrument wait, as flow control does on USB."""
        while data and not self._stop.is_set():
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                time.sleep(TURN_S / 4)
