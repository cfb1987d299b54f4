"""An open session on a board behind TVM's RPC: connects anew when it must, retries what the link spoilt, then fails.

A retry never hides a failure of the network itself: only what broke before or beside the run is tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.artifact import DESCRIPTION, LIBRARY
from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Loop
from hwnas.core.lab import LOOPBACK
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.errors import (
    DeviceCrashed,
    DeviceError,
    DeviceQuarantined,
    DeviceTimeout,
    DeviceUnavailable,
    LinkCorrupt,
    NotMeasurable,
)
from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout
from hwnas.runners.arrays import read_interface
from hwnas.runners.tvm_rpc.agent.messages import pack_arrays, revision, unpack_arrays
from hwnas.runners.tvm_rpc.hosted import Hosted
from hwnas.runners.tvm_rpc.remote_health import RemoteHealth

if TYPE_CHECKING:
    import numpy as np

ATTEMPTS = 3
APPEAR_S = 2.0
"""How long a board that was never seen may take to register; a mistyped key is not worth more."""
GRACE_S = 1.0
"""How much longer than the board, which ends a hung kernel itself, this side waits."""
ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to a board: by a tracker's `address`, or by what is `hosted` on this computer and started on demand.

    wait_s: deadline for a free board; lease_s: the server ends a session that lasts longer; counts: it is emulated
    and counts instructions; health: reads the board's state beside RPC.
    """

    name: str
    key: str
    wait_s: float
    lease_s: float
    address: tuple[str, int] = (LOOPBACK, 9190)
    hosted: Hosted | None = None
    counts: bool = False
    machine: str | None = None
    counter: str | None = None
    health: RemoteHealth | None = None


class _Ended(LinkCorrupt):
    """The session ended while a network ran: by its fault or by the link's."""


class RpcBoard:
    """A board lent by a tracker: ready until closed, or quarantined after too many failures in a row."""

    def __init__(self, device: Device, way: Way) -> None:
        self._device, self._way = device, way
        self._child = Child("hwnas.runners.tvm_rpc.client", {"TVM_USE_RUNTIME_LIB": "1"})
        self._hello: dict[str, Any] = {}
        self._since: float | None = None
        self._stored = ""
        self._closed = False
        self._failures = 0
        self._first: DeviceError | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def facts(self) -> Mapping[str, Any]:
        health = Health() if self._way.health is None else self._way.health.now()
        return {
            "machine": self._way.machine or self._hello["machine"],
            "clock_hz": health.clock_hz,
            "governor": health.governor,
            "temperature_c": health.temperature_c,
            "firmware": f"agent {self._hello['revision']}, TVM {self._hello['runtime']}",
            "board": self._way.name,
            "counter": self._way.counter,
        }

    def health(self) -> Health:
        return Health() if self._way.health is None else self._way.health.health()

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        """Nothing to prepare: a library is sent when it runs."""

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        header, _ = self._work(artifact, {"do": "run", "readings": readings, **self._reading}, timeout_s)
        if self._way.counts:
            return Samples(instructions=tuple(map(float, header["instructions"])))
        return Samples(latency_s=tuple(map(float, header["latency_s"])), inner=int(header["inner"]))

    def counts(self, artifact: Artifact, readings: int, timeout_s: float) -> dict[str, list[int]]:
        """Instructions of each run by class: `instructions` (all), `memory` (loads and stores), `simd`.

        Raises NotMeasurable for a board that is not emulated, DeviceError as `run` does.
        """
        if not self._way.counts:
            raise NotMeasurable(f"{self._device.name} does not count instructions; an emulated board does")
        header, _ = self._work(artifact, {"do": "run", "readings": readings, **self._reading}, timeout_s)
        return {name: list(map(int, header[name])) for name in ("instructions", "memory", "simd")}

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Loop:
        header = {"do": "loop", "seconds": 0.0, **self._reading}
        self._work(artifact, header, timeout_s)  # sends and calibrates, so that the window holds the runs alone
        began = time.monotonic()
        found, _ = self._work(artifact, {**header, "seconds": seconds}, seconds + timeout_s)
        ended = time.monotonic()
        way_s = max(0.0, ended - began - float(found["took_s"])) / 2
        return Loop(int(found["runs"]), began + way_s, began + way_s + float(found["took_s"]))

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        interface = read_interface(Path(artifact.path))
        kinds, data = pack_arrays(interface.to_library(inputs))
        header, payload = self._work(artifact, {"do": "outputs", "arrays": kinds}, timeout_s, data)
        return interface.to_network(unpack_arrays(header["arrays"], payload))

    def close(self) -> None:
        self._closed, self._since = True, None
        self._child.close()
        if self._way.hosted is not None:
            self._way.hosted.close()

    @property
    def _reading(self) -> dict[str, Any]:
        return {"warmup": self._device.protocol.warmup, "reading_s": self._device.protocol.reading}

    def _work(
        self, artifact: Artifact, header: dict[str, Any], timeout_s: float, payload: bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        if self._first is not None and self._failures >= self._device.protocol.failures_in_a_row:
            raise DeviceQuarantined(
                f"{self._failures} failures in a row; the first was: {self._first}"
            ) from self._first
        library = _library(artifact)
        try:
            answer = self._attempt(library, artifact, header, timeout_s, payload)
        except DeviceError as error:
            self._failures += 1
            self._first = self._first or error
            raise
        self._failures, self._first = 0, None
        return answer

    def _attempt(
        self, library: Path, artifact: Artifact, header: dict[str, Any], timeout_s: float, payload: bytes
    ) -> tuple[dict[str, Any], bytes]:
        """Connect, send and ask; what the link spoilt is tried again while there is time. Raises DeviceError.

        The time is that of the work: connecting has its own deadline, and does not eat up that of the network.
        """
        content = library.read_bytes()
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        inputs = read_interface(Path(artifact.path)).inputs
        options = {"name": name, "threads": artifact.options.get("threads", 1), "inputs": inputs}
        for left in reversed(range(ATTEMPTS)):
            began = time.monotonic()
            try:
                if self._way.counts and self._stored not in ("", name):
                    # Counts repeat to the instruction where the allocator does not remember what ran before.
                    self._disconnect()
                self._connect(timeout_s)
                began = time.monotonic()
                if name != self._stored:
                    _check_architecture(content, library, self._hello["architecture"])
                    self._store(name, library, began + timeout_s)
                return self._call({**header, **options}, began + timeout_s, payload)
            except LinkCorrupt as error:
                self._since = None
                timeout_s -= time.monotonic() - began
                if isinstance(error, _Ended):
                    self._blame(error)
                if not left or timeout_s <= 0:
                    raise LinkCorrupt(f"{error} ({ATTEMPTS - left} attempts)") from error
        raise AssertionError("the last attempt returns or raises")

    def _blame(self, error: _Ended) -> None:
        """Ask the board how the session ended. Raises DeviceCrashed if by a signal: it was not the link."""
        pid = self._hello["pid"]
        self._connect()
        previous = self._hello["previous"]
        if previous.get("pid") == pid and previous["signal"]:
            raise DeviceCrashed(
                f"the session on {self._way.name} was ended by {previous['signal']} while the network ran"
            ) from error

    def _open(self) -> None:
        """The first session. Raises DeviceUnavailable."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._connect()
            except LinkCorrupt as error:
                if not left:
                    raise DeviceUnavailable(f"{self._way.name}: {error} ({ATTEMPTS} attempts)") from error
        raise AssertionError("the last attempt returns or raises")

    def _connect(self, timeout_s: float = 0.0) -> None:
        """Have a session whose lease lasts for the work ahead. Raises DeviceUnavailable, LinkCorrupt."""
        if self._closed:
            raise DeviceUnavailable(f"{self._way.name} was closed")
        if self._since is not None and time.monotonic() - self._since + timeout_s + GRACE_S < self._way.lease_s:
            return
        self._disconnect()
        began = time.monotonic()
        try:
            self._lend()
            self._since = began
            self._hello, _ = self._call({"do": "hello"}, time.monotonic() + self._way.wait_s, b"")
        except DeviceTimeout as error:
            raise DeviceUnavailable(f"{self._way.name} does not answer: {error}") from error
        except DeviceUnavailable as error:
            words = self._way.hosted.last_words() if self._way.hosted is not None else ""
            raise DeviceUnavailable(f"{error}" + (f"; the server's last words: {words}" if words else "")) from error
        if self._hello.get("revision") != revision():
            self._disconnect()
            raise DeviceUnavailable(
                f"{self._way.name} runs another revision of hwnas's agent ({self._hello.get('revision')}, not "
                f"{revision()}): set the board up again with `hwnas devices setup {self._device.name} --ssh USER@HOST`"
            )

    def _lend(self) -> None:
        """Have the tracker lend the board; a server of ours that was found dead is started again, once."""
        hosted = self._way.hosted
        try:
            self._request(self._asked(), self._way.wait_s + 3 * GRACE_S)
        except DeviceUnavailable:
            if hosted is None or hosted.pid is not None:
                raise
            self._request(self._asked(), self._way.wait_s + 3 * GRACE_S)

    def _asked(self) -> dict[str, Any]:
        """The request for a session; a board that was there before is given time to register again."""
        hosted = self._way.hosted
        host, port = self._way.address if hosted is None else (LOOPBACK, hosted.start())
        return {
            "do": "connect",
            "host": host,
            "port": port,
            "key": self._way.key,
            "wait_s": self._way.wait_s,
            "appear_s": self._way.wait_s if hosted is not None or self._hello else APPEAR_S,
            "lease_s": self._way.lease_s,
            "server": None if hosted is None else hosted.pid,
        }

    def _disconnect(self) -> None:
        if self._since is not None:
            with contextlib.suppress(DeviceError):  # a process that hangs in it was ended, which disconnects as well
                self._request({"do": "disconnect"}, GRACE_S)
        self._since, self._stored = None, ""

    def _store(self, name: str, library: Path, deadline: float) -> None:
        """Send a library under a name, in the place of the one before."""
        if self._stored:
            forgotten, self._stored = self._stored, ""
            self._call({"do": "forget", "name": forgotten}, deadline, b"")
        self._call({"do": "store", "name": name}, deadline, library)
        self._stored = name

    def _call(self, header: dict[str, Any], deadline: float, payload: bytes | Path) -> tuple[dict[str, Any], bytes]:
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeviceTimeout(f"no time was left for {header['do']!r}")
        message: dict[str, Any] = {"do": "call", "header": {**header, "timeout_s": left}}
        if isinstance(payload, Path):
            message["file"] = str(payload.resolve())
        else:
            message["payload"] = b64encode(payload).decode()
        answer = self._request(message, left + GRACE_S, running=header["do"] in ("run", "loop", "outputs"))
        return answer["header"], b64decode(answer["payload"])

    def _request(self, message: dict[str, Any], timeout_s: float, running: bool = False) -> dict[str, Any]:
        """Ask the process that speaks RPC. `running`: the network runs meanwhile, so that an end may be its fault."""
        began = time.monotonic()
        try:
            return self._child.request(message, timeout_s)
        except ChildTimeout as cause:
            self._since = None
            raise DeviceTimeout(str(cause)) from cause
        except ChildCrashed as cause:
            self._since = None
            raise LinkCorrupt(f"what came over the link ended the RPC client: {cause}") from cause
        except ChildError as cause:
            if cause.kind == "Remote":
                raise DeviceError(str(cause)) from cause
            self._since = None
            if cause.kind in ("Absent", "Busy", "Foreign"):
                raise DeviceUnavailable(str(cause)) from cause
            if cause.kind == "LeaseEnded":
                raise DeviceTimeout(f"{cause} ({self._way.lease_s:g} s)") from cause
            took = time.monotonic() - began
            if took >= timeout_s - GRACE_S - 0.05:
                raise DeviceTimeout(
                    f"no answer within {timeout_s - GRACE_S:g} s; the board ended the session"
                ) from cause
            if running and cause.kind == "Lost":
                raise _Ended(f"the session ended while the network ran: {cause}") from cause
            raise LinkCorrupt(f"{cause.kind}: {cause}") from cause


def _library(artifact: Artifact) -> Path:
    """The library of an artifact. Raises DeviceError if it is missing, of another kind, or not as long as built."""
    folder = Path(artifact.path)
    if not (folder / DESCRIPTION).is_file() or not (folder / LIBRARY).is_file():
        raise DeviceError(f"there is no artifact of TVM at {folder}")
    size = (folder / LIBRARY).stat().st_size
    if artifact.flash_bytes is not None and size != artifact.flash_bytes:
        raise DeviceError(f"{folder / LIBRARY} has {size} bytes, but {artifact.flash_bytes} were built: it was cut")
    return folder / LIBRARY


def _check_architecture(content: bytes, library: Path, architecture: str) -> None:
    """Raises DeviceError for what is no shared library, or one for another processor than the board's."""
    if content[:4] != b"\x7fELF" or len(content) < 20:
        raise DeviceError(f"{library} is not a shared library")
    number = int.from_bytes(content[18:20], "little")
    built = ELF_MACHINES.get(number, f"ELF machine {number}")
    if built != architecture:
        raise DeviceError(f"{library} was built for {built}, but the board is {architecture}; build it for this device")
