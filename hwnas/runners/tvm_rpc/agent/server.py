"""Lends the board to one client at a time through a TVM RPC tracker.

TVM's own server loop is not used: a session that crashes ends it, and a stranger who connects and stays silent blocks it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

from .messages import ENDED
from .session import Session, run_session

HANDSHAKE_S = 5.0
PING_S = 1.0
RETRY_S = 0.3
"""Between two attempts to reach the tracker."""
UNCLAIMED_PINGS = 4
"""Pings after which a key that a client fetched but never used is drawn anew."""
MAX_KEY_BYTES = 4096


class Server:
    """Registers the board at a tracker and lends it, one session in a process of its own at a time."""

    def __init__(self, settings: argparse.Namespace) -> None:
        from tvm.rpc import base

        self._base, self._key = base, settings.key
        self._counts, self._life = settings.counts, settings.life
        host, _, port = settings.tracker.rpartition(":")
        self._tracker_at = (host, int(port))
        self._work = Path(settings.work or tempfile.gettempdir())
        self._listener = socket.create_server((settings.bind, settings.port))
        self._announced = (settings.bind, settings.announce or self._listener.getsockname()[1])
        self._tracker: socket.socket | None = None
        self._ticket = ""
        self._previous: dict[str, Any] = {}

    def serve(self) -> None:
        """Lend the board until whoever started us is gone; outlives trackers, clients and crashed sessions."""
        while True:
            try:
                client, lease_s = self._next_client()
            except OSError:
                if self._tracker is not None:
                    self._tracker.close()
                    self._tracker = None
                self._wait([], RETRY_S)
                continue
            with client:
                self._lend(client, lease_s)

    def _next_client(self) -> tuple[socket.socket, float | None]:
        """Offer the board and wait for the client who shows the ticket. Raises OSError when the tracker is gone."""
        self._offer()
        unclaimed = 0
        while True:
            ready = self._wait([self._listener, self._tracker], PING_S)
            if self._tracker in ready:
                raise OSError("the tracker closed the connection")  # it says nothing unless it is asked
            if self._listener in ready:
                client, _ = self._listener.accept()
                try:
                    return client, self._greet(client)
                except (OSError, ValueError, struct.error):
                    client.close()
                continue
            unclaimed = 0 if self._ticket in self._ask(["GET_PENDING_MATCHKEYS"]) else unclaimed + 1
            if unclaimed >= UNCLAIMED_PINGS:
                self._offer()
                unclaimed = 0

    def _offer(self) -> None:
        base = self._base
        if self._tracker is None:
            self._tracker = socket.create_connection(self._tracker_at, HANDSHAKE_S)
            self._tracker.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if base.recvall(self._tracker, 4) != struct.pack("<i", base.RPC_TRACKER_MAGIC):
                raise OSError(f"{self._tracker_at} is no tracker")
            self._ask(["UPDATE_INFO", {"key": "server:" + self._key, "addr": self._announced}])
        self._ticket = base.random_key(self._key)
        self._ask(["PUT", self._key, (self._announced[1], self._ticket), self._announced[0]])

    def _ask(self, message: list[Any]) -> Any:
        self._base.sendjson(self._tracker, [getattr(self._base.TrackerCode, message[0]), *message[1:]])
        try:
            return self._base.recvjson(self._tracker)
        except ValueError as error:
            raise OSError(f"the tracker speaks nonsense: {error}") from error

    def _greet(self, client: socket.socket) -> float | None:
        """TVM's handshake; returns the lease the client asks for (s). Raises ValueError for a stranger."""
        base = self._base
        client.settimeout(HANDSHAKE_S)
        magic, length = struct.unpack("<ii", base.recvall(client, 8))
        if magic != base.RPC_MAGIC or not 0 < length <= MAX_KEY_BYTES:
            raise ValueError("not a client of TVM's RPC")
        name, *options = base.recvall(client, length).decode().split()
        if name != "client:" + self._ticket:
            client.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
            raise ValueError("the client shows another ticket")
        own = ("server:" + self._key).encode()
        client.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(own)) + own)
        client.settimeout(None)
        leases = [float(o.removeprefix("-timeout=")) for o in options if o.startswith("-timeout=")]
        return leases[0] if leases else None

    def _lend(self, client: socket.socket, lease_s: float | None) -> None:
        """One session in a child process, ended at the latest with its lease; its files go with it."""
        folder = Path(tempfile.mkdtemp(prefix="hwnas-session-", dir=self._work))
        over, held = os.pipe()
        server = os.getpid()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(over)
                self._listener.close()
                if self._tracker is not None:
                    self._tracker.close()
                run_session(client.fileno(), Session(folder, self._counts, self._previous), server)
                status = 0
            finally:
                os._exit(status)
        os.close(held)
        try:
            if not self._wait([over], lease_s):
                from tvm.rpc import _ffi_api

                client.settimeout(HANDSHAKE_S)
                with contextlib.suppress(Exception):
                    _ffi_api.ReturnException(client.fileno(), f"RPCSessionTimeoutError: {ENDED}")
        finally:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ""
            self._previous = {"pid": child, "signal": by}
            os.close(over)
            shutil.rmtree(folder, ignore_errors=True)

    def _wait(self, sources: list[Any], timeout_s: float | None) -> list[Any]:
        """What of `sources` can be read within the time. Ends the program when whoever started it is gone."""
        life = [] if self._life is None else [self._life]
        ready = select.select([*sources, *life], [], [], timeout_s)[0]
        if self._life in ready:
            sys.exit(0)
        return ready
