"""An emulated board that counts how often it was flashed."""

from __future__ import annotations

from hwnas.config import load_device
from hwnas.firmware.image import Image
from hwnas.runners.exchange import Timing
from hwnas.runners.firmware import FirmwareBoard
from hwnas.runners.stations import QemuStation

M4 = load_device("cortex-m4-qemu")
PATIENT = Timing(slack_s=0.5, boot_s=5.0, silence_s=1.0)


class CountingStation(QemuStation):
    """Counts."""

    flashed = 0

    def flash(self, image: Image) -> None:
        self.flashed += 1
        super().flash(image)


Counted = tuple[FirmwareBoard, CountingStation]


def counting_board(timing: Timing = PATIENT) -> Counted:
    assert M4.emulator is not None
    station = CountingStation(M4.emulator, "qemu-1", timing)
    return FirmwareBoard(M4, station), station
