"""Links: raw bytes to and from a board, each wait with a deadline. A link knows nothing of frames."""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from typing import TYPE_CHECKING, Protocol

from hwnas.errors import ConfigError, DeviceUnavailable

if TYPE_CHECKING:
    import serial

BITS_PER_BYTE = 10
"""8N1: a start bit, eight data bits, a stop bit."""
WRITE_TIMEOUT_S = 5.0
PULSE_S = 0.1
_SOCKET = re.compile(r"socket://[A-Za-z0-9_.\-\[\]:]+:\d{1,5}")


class LinkLost(DeviceUnavailable):
    """The line itself went away: unplugged, or the program at its other end ended."""


class Link(Protocol):
    """Bytes to and from a board. `byte_s` is how long one byte takes on the line."""

    byte_s: float

    def send(self, data: bytes) -> None:
        """Send all of it. Raises LinkLost."""
        ...

    def receive(self, timeout_s: float) -> bytes:
        """What has arrived, at least one byte, or none within the time. Raises LinkLost."""
        ...

    def pulse_reset(self) -> bool:
        """Reset the board by the modem lines DTR and RTS; False where the line has none."""
        ...

    def close(self) -> None: ...


class SerialLink:
    """A serial port of pyserial: a device path, a pseudo-terminal, or `socket://host:port`; opened exclusively."""

    def __init__(self, where: str, baud: int) -> None:
        import serial

        self.where, self.byte_s = where, BITS_PER_BYTE / baud
        exclusive = None if where.startswith("socket://") else True
        try:
            self._port: serial.SerialBase = serial.serial_for_url(
                where, baudrate=baud, timeout=0, write_timeout=WRITE_TIMEOUT_S, exclusive=exclusive
            )
        except (OSError, ValueError) as error:  # serial.SerialException is an OSError
            busy = " (is another program using it?)" if "lock" in str(error).lower() else ""
            raise DeviceUnavailable(f"{where} cannot be opened: {error}{busy}") from error
        self._fd = self._port.fileno()

    def send(self, data: bytes) -> None:
        import serial

        try:
            self._port.write(data)
        except (OSError, serial.SerialException, TypeError) as error:  # TypeError: pyserial's answer to a closed port
            raise LinkLost(f"{self.where} is gone: {error}") from error

    def receive(self, timeout_s: float) -> bytes:
        try:
            if not select.select([self._fd], [], [], max(0.0, timeout_s))[0]:
                return b""
            data = os.read(self._fd, 4096)
        except BlockingIOError:  # another byte's reader won; there is none left
            return b""
        except (OSError, ValueError) as error:
            raise LinkLost(f"{self.where} is gone: {error}") from error
        if not data:
            raise LinkLost(f"{self.where} is gone: the other end closed it")
        return data

    def pulse_reset(self) -> bool:
        try:
            self._port.dtr, self._port.rts = False, True  # boards that hang their reset on RTS, DTR choosing to run
            time.sleep(PULSE_S)
            self._port.rts = False
            self._port.dtr = True  # boards that reset on the edge of DTR
        except (OSError, ValueError):
            return False  # a pseudo-terminal has no modem lines
        return not self.where.startswith("socket://")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._port.close()


def find_serial(where: str) -> str:
    """What pyserial opens for a lab file's `serial`: a path, `usb:SERIALNUMBER` or `socket://host:port`.

    Raises ConfigError for anything else, DeviceUnavailable for a USB serial number that is not plugged in.
    """
    if where.startswith("usb:"):
        from serial.tools import list_ports

        found = {port.serial_number: port.device for port in list_ports.comports() if port.serial_number}
        number = where.removeprefix("usb:")
        if number not in found:
            raise DeviceUnavailable(f"no USB serial port has the number {number!r} (there are: {_listed(found)})")
        return str(found[number])
    if where.startswith("socket://"):
        if not _SOCKET.fullmatch(where):
            raise ConfigError("write socket://host:port", key="serial", given=where)
        return where
    if not where.startswith("/"):
        raise ConfigError(
            "must be a device path, usb:SERIALNUMBER or socket://host:port", key=f"serial: {where}", given=where
        )
    return where


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{number} at {device}" for number, device in sorted(found.items())) or "none"
