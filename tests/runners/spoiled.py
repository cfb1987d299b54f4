"""An emulated board behind a fault proxy: the host speaks to a pseudo-terminal, through pyserial's real serial path."""

from __future__ import annotations

from hwnas.core.device import Device
from hwnas.errors import DeviceUnavailable
from hwnas.faults import FaultProxy
from hwnas.firmware.image import Image
from hwnas.runners.exchange import Timing
from hwnas.runners.links import Link, SerialLink
from hwnas.runners.qemu import QemuMachine

BAUD = 921_600


class SpoiledStation:
    """A station of one QEMU machine that goes on running from board to board; flash, reset and power really work."""

    keeps_image = True
    machine = "qemu behind a fault proxy"
    place = "spoiled"

    def __init__(self, device: Device, timing: Timing) -> None:
        assert device.emulator is not None
        self.timing = timing
        self.qemu = QemuMachine(device.emulator)
        self.proxy = FaultProxy(self.qemu.url, seed=0)
        self.power_cycles = self.resets = 0
        self._image: Image | None = None

    def flash(self, image: Image) -> None:
        self._image = image
        self.qemu.start(image.elf)

    def connect(self) -> Link:
        return SerialLink(self.proxy.where, BAUD)

    def reset(self, timeout_s: float = 1.0) -> bool:
        self.resets += 1
        return self.qemu.reset()

    def power_cycle(self, timeout_s: float = 1.0) -> bool:
        self.power_cycles += 1
        if self._image is None:
            raise DeviceUnavailable("nothing was flashed")
        self.qemu.start(self._image.elf)
        return True

    def diagnosis(self) -> str | None:
        return self.qemu.ending()

    def close(self) -> None:
        """The machine stays; `end` ends it."""

    def end(self) -> None:
        self.proxy.close()
        self.qemu.close()
