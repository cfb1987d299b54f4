"""A tracker and an agent on this computer: for a board under qemu-user, and for a server without a board in tests.

Both listen on 127.0.0.1 only, and both end with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hwnas.core.lab import LOOPBACK
from hwnas.errors import DeviceUnavailable, HwnasError
from hwnas.processes import Child

TRACKER_START_S = 60.0


class Hosted:
    """Starts the tracker, and the agent by `command` (an argv that agent options are added to), when they do not run."""

    def __init__(self, key: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.key, self._command, self._environment = key, tuple(command), dict(environment)
        self._tracker = Child("hwnas.runners.tvm_rpc.tracker", {"TVM_USE_RUNTIME_LIB": "1"})
        self._agent: subprocess.Popen[bytes] | None = None
        self._life = -1
        self._log: IO[bytes] | None = None
        self._work = Path(tempfile.mkdtemp(prefix="hwnas-board-"))

    def start(self) -> int:
        """Start what does not run (again), and return the tracker's port. Raises DeviceUnavailable."""
        try:
            port = int(self._tracker.request({}, TRACKER_START_S)["port"])
        except HwnasError:
            self._end_agent()  # it belongs to the tracker that is gone
            try:
                port = int(self._tracker.request({}, TRACKER_START_S)["port"])
            except HwnasError as error:
                raise DeviceUnavailable(
                    f"TVM's RPC tracker does not start: {error}. Its packages come with: pip install 'hwnas[rpc]'"
                ) from error
        if self._agent is None or self._agent.poll() is not None:
            self._end_agent()
            self._start_agent(port)
        return port

    @property
    def pid(self) -> int | None:
        """The agent's process, if it runs."""
        return None if self._agent is None or self._agent.poll() is not None else self._agent.pid

    def last_words(self) -> str:
        """The end of what the agent said, for a message."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End both; safe to call twice."""
        self._end_agent()
        self._tracker.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _start_agent(self, port: int) -> None:
        life, self._life = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the agent)
        self._work.mkdir(exist_ok=True)
        options = ("--tracker", f"{LOOPBACK}:{port}", "--key", self.key, "--work", str(self._work), "--life", str(life))
        try:
            self._agent = subprocess.Popen(
                [*self._command, *options],
                env=self._environment,
                pass_fds=(life,),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceUnavailable(f"{self._command[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(life)

    def _end_agent(self) -> None:
        if self._agent is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._agent.pid, signal.SIGKILL)  # with its session, which may hang in native code
            self._agent.wait()
            self._agent = None
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._log is not None:
            self._log.close()
            self._log = None
