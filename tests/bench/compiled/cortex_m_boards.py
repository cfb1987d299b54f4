"""Networks on emulated Cortex-M boards through the product: built by cgen, run by the firmware, counted and weighed.

Counts are the runner's own, kernel by kernel. Weighted cycles come from a QEMU plugin (`cortex_m_cycles.c`) whose
window is that between two readings of the firmware's counter, the same that the runner reports.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.config import load_device
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.firmware.image import Image
from hwnas.runners.firmware import FirmwareBoard
from hwnas.runners.stations import QemuStation

PLUGIN = Path(__file__).with_name("cortex_m_cycles.c")
RAM_BYTES = 1 << 20
TIMEOUT_S = 120.0
MOST_PERIODS = 8
SLACK = 400
"""Instructions around a kernel that belong to a reading of the counter."""


def roomy(core: str) -> Device:
    """The emulated board of a core, with more RAM than its device file says: counts do not depend on that."""
    device = load_device(f"cortex-{core}-qemu")
    memories = tuple(
        memory.model_copy(update={"size": max(float(memory.size or 0), RAM_BYTES if core != "m55" else 0)})
        if memory.use == "ram"
        else memory
        for memory in device.memories
    )
    return device.model_copy(update={"memories": memories})


@dataclass(frozen=True, slots=True)
class Counted:
    """Instructions and weighted cycles of one kernel of a network in a run."""

    name: str
    instructions: float
    cycles: float


class WeighingStation(QemuStation):
    """An emulated board whose QEMU weighs what is executed between two readings of the firmware's counter."""

    def __init__(self, device: Device, folder: Path) -> None:
        assert device.emulator is not None
        super().__init__(device.emulator, "bench")
        self._library = folder / "cycles.so"
        self.record = folder / "cycles.txt"
        subprocess.run(
            ["gcc", "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(PLUGIN)],
            check=True, timeout=120,
        )  # fmt: skip

    def flash(self, image: Image) -> None:
        listed = subprocess.run(
            ["arm-none-eabi-nm", str(image.elf)], check=True, capture_output=True, text=True, timeout=60
        ).stdout
        [mark] = [int(line.split()[0], 16) & ~1 for line in listed.splitlines() if line.endswith(" hwnas_ticks")]
        self._image = image
        self._machine.start(
            image.elf, "-plugin", f"file={self._library},mark={mark:x},out={self.record}"
        )  # fmt: skip


class WeighedBoard:
    """One open board; `count` a network that it runs."""

    def __init__(self, device: Device, folder: Path) -> None:
        self._station = WeighingStation(device, folder)
        self._board = FirmwareBoard(device, self._station)

    def stage(self, artifacts: list[Artifact]) -> None:
        self._board.stage(artifacts)

    def count(self, artifact: Artifact) -> list[Counted]:
        """Each kernel of one run."""
        self._board.run(artifact, 1, TIMEOUT_S)
        read = self._windows()
        counted = self._board.kernels(artifact, TIMEOUT_S)
        windows = self._windows()[len(read) :]
        found = []
        for name, instructions in counted:
            near = min(_spans(windows), key=lambda span: abs(span[0] - instructions))
            if abs(near[0] - instructions) > SLACK:
                raise RuntimeError(f"{name}: {instructions:.0f} instructions, but the plugin saw {near[0]}")
            # the window holds the counter's own instructions too: weigh them as the kernel's
            found.append(Counted(name, instructions, near[1] * instructions / near[0]))
        return found

    def outputs(self, artifact: Artifact, inputs: list[np.ndarray]) -> np.ndarray:
        [result] = self._board.outputs(artifact, inputs, TIMEOUT_S)
        return result

    def memory(self, artifact: Artifact) -> Mapping[str, int]:
        return self._board.run(artifact, 1, TIMEOUT_S).memory or {}

    def close(self) -> None:
        self._board.close()

    def _windows(self) -> list[tuple[int, int]]:
        """Instructions and weighted cycles between the readings of the counter so far."""
        lines = self._station.record.read_text().splitlines() if self._station.record.is_file() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines if len(line.split()) == 5]


def _spans(windows: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Every run of neighbouring windows: the counter is also read by the interrupt that ends its period."""
    for k in range(len(windows)):
        instructions = cycles = 0
        for more in windows[k : k + MOST_PERIODS]:
            instructions, cycles = instructions + more[0], cycles + more[1]
            yield instructions, cycles


@contextmanager
def weighed(device: Device) -> Iterator[WeighedBoard]:
    """A board that is closed at the end, its files with it."""
    with tempfile.TemporaryDirectory(prefix="hwnas-bench-") as folder:
        board = WeighedBoard(device, Path(folder))
        try:
            yield board
        finally:
            board.close()
