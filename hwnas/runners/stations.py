"""Stations: an emulated board, and a board on a serial line as the lab file describes it."""

from __future__ import annotations

from typing import Protocol

from hwnas.core.device import Device, Emulator, Mcu
from hwnas.core.lab import SerialBoard
from hwnas.errors import DeviceUnavailable
from hwnas.firmware.image import Image, write_binary
from hwnas.runners.exchange import Timing
from hwnas.runners.flashing import fill, names_in, run_command
from hwnas.runners.links import Link, SerialLink, find_serial
from hwnas.runners.qemu import QemuMachine, qemu_version
from hwnas.runners.session import Station

COMMAND_S = 60.0
"""The longest that a `reset` or `power` command may take."""


class FlashingStation(Station, Protocol):
    """A station that can put an image on its board."""

    machine: str
    keeps_image: bool
    """True for a board that may hold an image from before."""

    def flash(self, image: Image) -> None:
        """Put an image on the board; its line is closed meanwhile. Raises DeviceError."""
        ...

    def close(self) -> None: ...


class QemuStation:
    """An emulated board: flashing and power-cycling start the machine anew, reset pulls its reset line."""

    keeps_image = False
    timing = Timing(slack_s=1.0, boot_s=20.0, silence_s=5.0)
    """Patient, because other work on this computer slows an emulator down."""

    def __init__(self, emulator: Emulator, place: str, timing: Timing | None = None) -> None:
        self.place = place
        self.machine = f"qemu-system-arm {qemu_version()} {emulator.machine}, icount shift {emulator.shift}"
        self.timing = timing or type(self).timing
        self._machine = QemuMachine(emulator)
        self._image: Image | None = None

    def flash(self, image: Image) -> None:
        self._image = image
        self._machine.start(image.elf)

    def connect(self) -> Link:
        if (ending := self._machine.ending()) is not None:
            raise DeviceUnavailable(f"{self.place}: {ending}")
        return SerialLink(self._machine.url, baud=10**9)  # a socket: no byte takes any time

    def reset(self, timeout_s: float) -> bool:
        return self._machine.reset()

    def power_cycle(self, timeout_s: float) -> bool:
        if self._image is None:
            return False
        self._machine.start(self._image.elf)
        return True

    def diagnosis(self) -> str | None:
        return self._machine.ending()

    def close(self) -> None:
        self._machine.close()


class SerialStation:
    """A board of the lab file."""

    keeps_image = True

    def __init__(self, board: SerialBoard, mcu: Mcu, timing: Timing | None = None) -> None:
        self.place, self._board = board.name, board
        self.machine = f"{mcu.port}, {mcu.cpu} at {mcu.clock / 1e6:g} MHz"
        self.timing = timing or Timing()
        self._baud = board.baud or mcu.baud

    def flash(self, image: Image) -> None:
        if self._board.flash is None:
            raise DeviceUnavailable(
                f"lab board {self.place!r} has no `flash` command, and the board does not run the image that it should; "
                "add one, such as  flash: [pyocd, flash, -t, stm32f446re, '{elf}']"
            )
        values = {"elf": str(image.elf), "serial": self._board.serial.removeprefix("usb:")}
        if "bin" in names_in(self._board.flash):
            values["bin"] = str(write_binary(image))
        run_command(fill(self._board.flash, values), self._board.flash_timeout, f"flashing {self.place}")

    def connect(self) -> Link:
        return SerialLink(find_serial(self._board.serial), self._baud)

    def reset(self, timeout_s: float) -> bool:
        return self._run(self._board.reset, "resetting", timeout_s)

    def power_cycle(self, timeout_s: float) -> bool:
        return self._run(self._board.power, "power-cycling", timeout_s)

    def diagnosis(self) -> str | None:
        return None

    def close(self) -> None:
        """Nothing is kept open."""

    def _run(self, command: tuple[str, ...] | None, what: str, timeout_s: float) -> bool:
        if command is None:
            return False
        values = {"serial": self._board.serial.removeprefix("usb:")}
        run_command(fill(command, values), min(COMMAND_S, timeout_s), f"{what} {self.place}")
        return True


def station_of(device: Device, place: str, board: SerialBoard | None) -> FlashingStation:
    """The station of a place: a lab board, or the emulator of an emulated device."""
    assert device.mcu is not None
    if board is not None:
        return SerialStation(board, device.mcu)
    assert device.emulator is not None
    return QemuStation(device.emulator, place)
