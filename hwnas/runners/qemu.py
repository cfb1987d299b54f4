"""A QEMU machine as a process: starts an image, resets it, and ends with this process, even after `kill -9`.

Its serial port is a socket on loopback that this process listens on before QEMU starts, so no port is guessed, no
other program can take it in between, and the first byte that the firmware sends is not lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from hwnas.core.device import Emulator
from hwnas.errors import DeviceUnavailable

PROGRAM = "qemu-system-arm"
TAIL = 1000


@functools.cache
def qemu_version() -> str:
    """The version of the QEMU that is installed. Raises DeviceUnavailable with what to install."""
    if shutil.which(PROGRAM) is None:
        raise DeviceUnavailable(f"{PROGRAM} is not installed; `apt install qemu-system-arm` brings it")
    try:
        said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceUnavailable(f"{PROGRAM} does not run: {error}") from error
    found = re.search(r"version (\S+)", said)
    return found[1] if found else said.strip()[:60]


class QemuMachine:
    """One emulated machine behind `url`; `start` it with an image, as often as needed."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._process: subprocess.Popen[bytes] | None = None
        self._life = -1
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the machine)
        self._server = socket.create_server(("127.0.0.1", 0), backlog=4)
        self._server.setblocking(False)
        self.url = f"socket://127.0.0.1:{self._server.getsockname()[1]}"

    def start(self, elf: Path, *more: str) -> None:
        """Start an image; one that runs is ended first. The firmware waits until `url` is opened.

        Raises DeviceUnavailable.
        """
        qemu_version()
        self.stop()
        self._refuse_the_waiting()
        life, self._life = os.pipe()
        line = f"socket,id=line,fd={self._server.fileno()},server=on,wait=on,nodelay=on"
        argv = [PROGRAM, "-M", self._emulator.machine, "-display", "none", "-nodefaults", "-monitor", "stdio"]
        pace = ",align=on" if self._emulator.paced else ""
        argv += ["-icount", f"shift={self._emulator.shift}{pace}", "-kernel", str(elf)]
        argv += ["-chardev", line, "-serial", "chardev:line", *more]
        try:
            self._process = subprocess.Popen(
                argv,
                pass_fds=(self._server.fileno(), life),
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
            _end_with_the_pipe(life, self._process.pid)
        except OSError as error:
            raise DeviceUnavailable(f"{PROGRAM} cannot be started: {error}") from error
        finally:
            os.close(life)

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def reset(self) -> bool:
        """Pull the machine's reset line; False if it does not run."""
        if self._process is None or self._process.poll() is not None or self._process.stdin is None:
            return False
        try:
            self._process.stdin.write(b"system_reset\n")
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def ending(self) -> str | None:
        """How the process ended and the end of what it printed; None while it runs."""
        if self._process is None:
            return f"{PROGRAM} was not started"
        if (status := self._process.poll()) is None:
            return None
        self._output.seek(0)
        tail = self._output.read()[-TAIL:].decode(errors="replace").strip()
        return f"{PROGRAM} ended with status {status}" + (f": {tail}" if tail else "")

    def stop(self) -> None:
        """End the process, whatever it does; safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            self._process = None
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def close(self) -> None:
        """End the process and give the port back."""
        self.stop()
        self._server.close()
        self._output.close()

    def _refuse_the_waiting(self) -> None:
        """Close connections that the last process never took: the next one would talk to the first of them."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._server.accept()[0].close()


def _end_with_the_pipe(life: int, pid: int) -> None:
    """Have the kernel kill process `pid`, which inherited `life`, when the last writer of that pipe closes it.

    Owner, signal and O_ASYNC belong to the open file that both processes share, so the child needs no code of its own
    between fork and exec. (QEMU blocks SIGIO, hence SIGKILL; PR_SET_PDEATHSIG would fire when a *thread* ends.)
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, pid)
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
