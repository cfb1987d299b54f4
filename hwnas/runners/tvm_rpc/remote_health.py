"""The health of a board that is reached by ssh: one command, all texts, by a deadline; RPC is not involved."""

from __future__ import annotations

import subprocess

from hwnas.core.interfaces import Health
from hwnas.runners.health import LIST_COMMAND, HealthReader, Read, parse_listing

SSH_S = 15.0


class RemoteHealth:
    """Reads the state of the board at an ssh address; one that does not tell it is a complaint, not good health."""

    def __init__(self, ssh: str) -> None:
        self._ssh = ssh
        self._listing: Read = parse_listing("")
        self._reader: HealthReader | None = None

    def now(self) -> Health:
        """The state at this moment, for a measurement's context."""
        reader = self._look()
        return self._silent() if reader is None else reader.now()

    def health(self) -> Health:
        """The state now, and what spoilt measurements since the last call."""
        reader = self._look()
        return self._silent() if reader is None else reader.health()

    def _look(self) -> HealthReader | None:
        command = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "--", self._ssh, LIST_COMMAND)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SSH_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        self._listing = parse_listing(done.stdout)
        if self._reader is None:
            self._reader = HealthReader(lambda name: self._listing(name))
        return self._reader

    def _silent(self) -> Health:
        return Health(complaints=(f"{self._ssh} does not tell its state over ssh",))
