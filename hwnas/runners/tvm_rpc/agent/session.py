"""What one client asks of the board: store a library, run it, compute with it, and forget it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import time
from pathlib import Path
from typing import Any

from .messages import ANSWER, pack_arrays, revision, seal, unpack_arrays, unseal
from .network import COUNTS, Network

SET_DEATH_SIGNAL = 1
"""Linux's prctl option PR_SET_PDEATHSIG."""


class Session:
    """The state of one client's visit: at most one network is loaded at a time."""

    def __init__(self, folder: Path, counts: bool, previous: dict[str, Any]) -> None:
        self._folder, self._counts, self._previous = folder, counts, previous
        self._name = ""
        self._network: Network | None = None
        self._cores = sorted(os.sched_getaffinity(0))

    def answer(self, message: Any) -> bytearray:
        """Answer a sealed request with a sealed reply that bears its number. A hung kernel ends this process.

        The alarm's default action ends it, whatever native code runs, and the server lends the board again.
        """
        header: dict[str, Any] = {}
        try:
            header, payload = unseal(bytes(message))
            signal.setitimer(signal.ITIMER_REAL, float(header["timeout_s"]))
            reply, data = getattr(self, "on_" + header["do"])(header, payload)
        except Exception as error:  # the client knows what to make of it
            reply, data = {"error": type(error).__name__, "message": str(error) or repr(error)}, b""
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return bytearray(seal({**reply, "number": header.get("number")}, data))

    def on_hello(self, header: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        import tvm

        return {
            "revision": revision(),
            "machine": machine_name(),
            "architecture": platform.machine(),
            "runtime": str(tvm.__version__),
            "counts": self._counts,
            "pid": os.getpid(),
            "previous": self._previous,
        }, b""

    def on_store(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        path = self._path(header["name"])
        try:
            path.write_bytes(payload)
            if path.read_bytes() != payload:
                raise OSError("the board's disk does not hold what was written to it")
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return {}, b""

    def on_forget(self, header: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        self._name, self._network = "", None
        self._path(header["name"]).unlink(missing_ok=True)
        return {}, b""

    def on_run(self, header: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        network, readings = self._load(header), int(header["readings"])
        if self._counts:
            network.warm_up(int(header["warmup"]))
            found = network.count(readings)
            return {name: list(column) for name, column in zip(COUNTS, zip(*found))}, b""
        network.calibrate(int(header["warmup"]), float(header["reading_s"]))
        return {
            "latency_s": [network.time(network.inner) / network.inner for _ in range(readings)],
            "inner": network.inner,
        }, b""

    def on_loop(self, header: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        """Run back to back for at least `seconds`; how long it took, and how long until this reply is on its way."""
        network = self._load(header)
        network.calibrate(int(header["warmup"]), float(header["reading_s"]))
        runs, began = 0, time.monotonic()
        while (now := time.monotonic()) - began < float(header["seconds"]):
            network.time(network.inner)
            runs += network.inner
        return {"runs": runs, "took_s": now - began}, b""

    def on_outputs(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        kinds, data = pack_arrays(self._load(header).outputs(unpack_arrays(header["arrays"], payload)))
        return {"arrays": kinds}, data

    def _load(self, header: dict[str, Any]) -> Network:
        if header["name"] != self._name or self._network is None:
            self._name, self._network = "", None
            threads = int(header["threads"])
            os.environ["TVM_NUM_THREADS"] = str(threads)
            if not self._counts:
                os.sched_setaffinity(0, self._cores[-threads:])  # the first ones take most interrupts
            self._network = Network(self._path(header["name"]), header["inputs"])
            self._name = header["name"]
        return self._network

    def _path(self, name: str) -> Path:
        if not name.isalnum():
            raise ValueError(f"{name!r} is not the name of a library")
        return self._folder / f"{name}.so"


def run_session(client: int, session: Session, server: int) -> None:
    """Serve one client on the socket `client` until it goes; ends with the server, even while a kernel hangs."""
    import tvm_ffi
    from tvm.rpc import _ffi_api

    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, int(signal.SIGKILL))
    if os.getppid() != server:  # it ended before we asked
        return
    tvm_ffi.register_global_func(ANSWER, session.answer, override=True)
    _ffi_api.ServerLoop(client)


def machine_name() -> str:
    """What this computer calls itself."""
    for path in ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model"):
        with contextlib.suppress(OSError):
            return Path(path).read_text().strip("\0\n ")
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"
