"""The process that speaks TVM's RPC: a hung call, a dead server or damaged bytes end this process at worst.

It holds one session at a time. Every class of error below is an answer that `board` turns into a DeviceError.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
import sys
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from hwnas.processes import serve
from hwnas.runners.tvm_rpc.agent.messages import ANSWER, ENDED, Corrupt, seal, unseal

TRACKER_S = 5.0
"""Deadline for a word with the tracker."""
LOOPBACKS = ("127.0.0.1", "localhost", "::1")
MAX_TRACKER_BYTES = 1 << 24


class Absent(Exception):
    """No tracker answers, or the key is not registered there."""


class Busy(Exception):
    """Every board of the key is lent to somebody else."""


class Foreign(Exception):
    """A server answers that is not hwnas's, or of another revision."""


class Lost(Exception):
    """The connection ended before the answer was there."""


class LeaseEnded(Exception):
    """The session lasted longer than its lease."""


class Remote(Exception):
    """The board answered with an error of its own."""


class Tracker:
    """A connection to a tracker that never waits longer than it is told."""

    def __init__(self, host: str, port: int) -> None:
        from tvm.rpc import base

        self._base, self.at = base, f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), TRACKER_S)
            self._socket.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            reply = base.recvall(self._socket, 4)
        except OSError as error:
            raise Absent(
                f"no tracker answers at {self.at} ({error}); start it and the ssh tunnel: "
                "`hwnas devices setup NAME --ssh USER@HOST --dry-run` ends with both commands"
            ) from error
        if reply != struct.pack("<i", base.RPC_TRACKER_MAGIC):
            raise Absent(f"what answers at {self.at} is not a TVM tracker")

    def keys(self) -> dict[str, int]:
        """How many boards are registered under each key."""
        found: dict[str, int] = {}
        for server in self._ask([self._base.TrackerCode.SUMMARY])["server_info"]:
            key = str(server["key"]).removeprefix("server:")
            found[key] = found.get(key, 0) + 1
        return found

    def request(self, key: str, wait_s: float) -> tuple[str, int, str]:
        """Address, port and ticket of a free board. Raises Busy when none is free in time."""
        self._socket.settimeout(wait_s)
        try:
            host, port, ticket = self._ask([self._base.TrackerCode.REQUEST, key, "hwnas", 1])
        except TimeoutError:
            raise Busy(f"every board {key!r} at {self.at} is in use; none became free within {wait_s:g} s") from None
        return str(host), int(port), str(ticket)

    def close(self) -> None:
        self._socket.close()

    def _ask(self, message: list[Any]) -> Any:
        try:
            self._base.sendjson(self._socket, message)
            (size,) = struct.unpack("<i", self._base.recvall(self._socket, 4))
            if not 0 < size <= MAX_TRACKER_BYTES:
                raise ValueError(f"a message of {size} bytes")
            code, value = json.loads(self._base.recvall(self._socket, size))
        except TimeoutError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise Absent(f"the tracker at {self.at} does not answer as one ({error})") from error
        if code != self._base.TrackerCode.SUCCESS:
            raise Absent(f"the tracker at {self.at} refused ({code})")
        return value


class Client:
    """Answers `connect`, `call` and `disconnect`."""

    def __init__(self) -> None:
        self._session: Any = None
        self._function: Any = None
        self._numbers = itertools.count(1)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "connect":
                return self._connect(request)
            case "call":
                return self._call(request)
            case _:
                self._session = self._function = None
                return {}

    def _connect(self, request: dict[str, Any]) -> dict[str, Any]:
        from tvm import rpc

        self._session = self._function = None
        host, key, now = request["host"], request["key"], time.monotonic()
        deadline, appears = now + request["wait_s"], now + request["appear_s"]
        tracker = Tracker(host, request["port"])
        try:
            while key not in (keys := tracker.keys()):  # the tracker would wait for ever for a key that it never saw
                if time.monotonic() > appears or not _alive(request["server"]):
                    known = ", ".join(sorted(keys)) or "none"
                    raise Absent(f"no board is registered as {key!r} at the tracker {tracker.at} (registered: {known})")
                time.sleep(0.1)
            address, port, ticket = tracker.request(key, max(0.1, deadline - time.monotonic()))
        finally:
            tracker.close()
        if host in LOOPBACKS and address not in LOOPBACKS:
            raise Foreign(
                f"the tracker {tracker.at} names a board at {address}: off this computer only where the lab file's host "
                "is; reach boards through an ssh tunnel"
            )
        try:
            self._session = rpc.connect(address, port, ticket, session_timeout=float(request["lease_s"]))
            self._function = self._session.get_function(ANSWER)
        except Exception as error:  # TVM raises many classes
            if ANSWER in str(error):  # it has no such function
                raise Foreign(
                    f"the server of {key!r} is not one of hwnas: set it up with `hwnas devices setup`"
                ) from error
            raise Lost(f"no session with {address}:{port}: {_one_line(error)}") from error
        return {}

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._function is None:
            raise Lost("there is no session")
        number = next(self._numbers)
        payload = Path(request["file"]).read_bytes() if "file" in request else b64decode(request.get("payload", ""))
        try:
            reply = self._function(bytearray(seal({**request["header"], "number": number}, payload)))
        except Exception as error:
            self._session = self._function = None
            raise (LeaseEnded(ENDED) if ENDED in str(error) else Lost(_one_line(error))) from error
        header, data = unseal(bytes(reply))
        if header.get("error") == "Corrupt":
            raise Corrupt(header["message"])
        if header.get("number") != number:
            raise Corrupt("the answer belongs to another request")
        if "error" in header:
            raise Remote(f"{header['error']}: {_one_line(header['message'])}")
        return {"header": header, "payload": b64encode(data).decode()}


def _alive(pid: int | None) -> bool:
    """Whether the process of a server that we host is there; of any other we cannot tell, and take it to be."""
    try:
        if pid is not None:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
    return True


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[-500:]


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it, and slow every start
    serve(Client().answer)
