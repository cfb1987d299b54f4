"""The commands of a lab file that flash, reset and power-cycle a board: an argv, no shell, and a deadline."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

from hwnas.errors import ConfigError, DeviceError, DeviceTimeout, DeviceUnavailable

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
TAIL = 2000
"""Characters of a command's output that its error shows."""


class CommandFailed(DeviceError):
    """A command of the lab file ended with an error; the message holds the end of its output."""


def fill(template: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The argv of a template, with {name} replaced. Raises ConfigError for a name that there is not."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError("no such placeholder", key=match[0], given=match[1], allowed=values)
        return values[match[1]]

    return [_PLACEHOLDER.sub(value, part) for part in template]


def names_in(template: Sequence[str]) -> set[str]:
    """The placeholders that a template uses."""
    return {name for part in template for name in _PLACEHOLDER.findall(part)}


def run_command(argv: Sequence[str], timeout_s: float, what: str) -> str:
    """Run a command to its end and return its output.

    Raises DeviceUnavailable if there is no such program, DeviceTimeout (the command and its children are killed) and
    CommandFailed, both with the end of its output.
    """
    if shutil.which(argv[0]) is None:
        raise DeviceUnavailable(f"{what}: there is no program {argv[0]!r}; install it, or correct the lab file")
    with subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that a flasher's children end with it
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            output = _kill(process)
            raise DeviceTimeout(f"{what}: no end within {timeout_s:g} s{_tail(output)}") from None
        except BaseException:
            _kill(process)
            raise
    if process.returncode != 0:
        raise CommandFailed(f"{what}: {argv[0]} ended with status {process.returncode}{_tail(output)}")
    return output.decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> bytes:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=1)[0] or b""
    except subprocess.TimeoutExpired:  # a child that left the session keeps the pipe open
        return b""


def _tail(output: bytes) -> str:
    text = output.decode(errors="replace").strip()[-TAIL:]
    return f": {text}" if text else " and said nothing"
