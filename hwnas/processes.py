"""A child process that answers JSON requests by a deadline, so that a crash or a hang is an answer and not our end.

Plain `python -m MODULE` with two pipes of its own: no pickle, no import of the caller's script, and libraries may
print to stdout as they like. The child dies with its parent, even after `kill -9`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from hwnas.errors import HwnasError

START_TIMEOUT_S = 120.0
MAX_MESSAGE_BYTES = 512 * 2**20


class ChildTimeout(HwnasError):
    """The child did not answer by the deadline; it was killed."""


class ChildCrashed(HwnasError):
    """The child ended without an answer; the message holds its exit status and the end of its stderr."""


class ChildError(HwnasError):
    """The child answered with an error: `kind` is its class, the message its text."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Child:
    """One child process running `serve` in `module`; starts on first use, and again after a crash or time-out."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._module, self._environment = module, dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._to: IO[bytes] | None = None
        self._from = self._life = -1
        self._errors: IO[bytes] | None = None
        self._buffer = b""

    def request(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a message and return the answer. Raises ChildTimeout, ChildCrashed or ChildError."""
        if self._process is None:
            self._start()
        assert self._to is not None
        try:
            self._to.write(json.dumps(message).encode() + b"\n")
            self._to.flush()
        except BrokenPipeError:
            raise self._crash() from None
        answer: dict[str, Any] = json.loads(self._line(timeout_s))
        if "error" in answer:
            raise ChildError(answer["error"], answer["message"])
        return answer

    def kill(self) -> None:
        """End the child from another thread: the request it was answering raises ChildCrashed there."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def close(self) -> None:
        """End the child; safe to call twice."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
        for stream in (self._to, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        for end in (self._from, self._life):
            if end >= 0:
                os.close(end)
        self._process, self._to, self._errors, self._buffer = None, None, None, b""
        self._from = self._life = -1

    def _start(self) -> None:
        read_request, write_request = os.pipe()
        read_answer, write_answer = os.pipe()
        read_life, self._life = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(read_request), str(write_answer), str(read_life)],
            pass_fds=(read_request, write_answer, read_life),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            env={**os.environ, **self._environment},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        os.close(read_request)
        os.close(write_answer)
        os.close(read_life)
        self._to, self._from = os.fdopen(write_request, "wb"), read_answer
        self._line(START_TIMEOUT_S)  # the child says hello once it has imported everything

    def _line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                self.close()
                raise ChildTimeout(f"no answer within {timeout_s:g} s")
            data = os.read(self._from, 1 << 20)
            if not data or len(self._buffer) > MAX_MESSAGE_BYTES:
                raise self._crash()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _crash(self) -> ChildCrashed:
        assert self._process is not None
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            status = None
        tail = ""
        if self._errors is not None:
            self._errors.seek(0)
            tail = self._errors.read()[-2000:].decode(errors="replace").strip()
        self.close()
        reason = "closed its pipe"
        if status is not None:
            reason = f"ended by signal {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ChildCrashed(f"the process {reason}" + (f": {tail.splitlines()[-1]}" if tail else ""))


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The child's loop: answer each request until the parent is gone. An exception becomes an error answer."""
    source, sink, life = (int(argument) for argument in sys.argv[1:4])
    _die_with(life)
    with os.fdopen(source, "rb") as requests, os.fdopen(sink, "wb") as answers:

        def send(message: Mapping[str, Any]) -> None:
            answers.write(json.dumps(message).encode() + b"\n")
            answers.flush()

        send({"ready": True})
        for line in requests:
            try:
                send(answer(json.loads(line)))
            except Exception as error:  # everything goes to the parent, which knows what to make of it
                send({"error": type(error).__name__, "message": str(error) or repr(error)})


def _die_with(life: int) -> None:
    """End this process when the parent's end of the pipe `life` closes, whatever native code runs then.

    The kernel sends SIGIO on the hang-up, and SIGIO's default action is to terminate. (PR_SET_PDEATHSIG would not
    do: it fires when the *thread* that started this process ends.)
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # it was closed before we asked to be told
        os._exit(0)
