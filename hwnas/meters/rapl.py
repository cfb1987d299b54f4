"""RAPL: the energy counters of x86 processor packages, as Linux shows them under `/sys/class/powercap`.

Packages only: their subzones (core, uncore, dram of clients) are parts of them, the platform zone `psys` contains them,
and the memory-mapped `intel-rapl-mmio` shows the same package once more.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.estimate import Seconds
from hwnas.core.measurement import Fidelity
from hwnas.errors import ConfigError, DeviceUnavailable
from hwnas.meters.recorder import Recording, Ticks
from hwnas.meters.trace import PowerTrace

_TOP_ZONE = re.compile(r"intel-rapl:\d+")
"""AMD's packages carry the same name."""
_DENIED = (
    "cannot be read by this user: the kernel keeps RAPL counters for root, because they leak what other programs compute "
    "(CVE-2020-8694). Run as root, or let a group read them: sudo chgrp GROUP {file} && sudo chmod g+r {file}"
)


class RaplSettings(BaseModel):
    """Settings of the meter `rapl`. Counters change about once a millisecond."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    root: Path = Path("/sys")
    packages: tuple[str, ...] | None = Field(default=None, description="such as package-0; None: all of them")
    interval: Seconds = Field(default=5e-3, gt=0, validate_default=False)


@dataclass(frozen=True, slots=True)
class Package:
    """One package: its counter (µJ), and the value after which the counter starts at 0 again."""

    name: str
    counter: Path
    range_uj: int

    def read_uj(self) -> int:
        """The counter. Raises DeviceUnavailable that tells what to do where this user may not, OSError otherwise."""
        try:
            return int(self.counter.read_text())
        except PermissionError as error:
            raise DeviceUnavailable(f"meter rapl: {self.counter} " + _DENIED.format(file=self.counter)) from error
        except ValueError as error:
            raise DeviceUnavailable(f"meter rapl: {self.counter} holds no number") from error


def find_packages(root: Path) -> dict[str, Package]:
    """The processor packages under a `/sys` by name."""
    found: dict[str, Package] = {}
    for zone in sorted((root / "class" / "powercap").glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            name = (zone / "name").read_text().strip()
            if _TOP_ZONE.fullmatch(zone.name) and name.startswith("package"):
                range_uj = int((zone / "max_energy_range_uj").read_text())
                found[name] = Package(name, zone / "energy_uj", range_uj)
    return found


class RaplMeter:
    """The packages of this computer, all together."""

    name = "rapl"
    fidelity = Fidelity.HARDWARE

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = validate(RaplSettings, dict(settings), "meter rapl")

    def record(self) -> Recording:
        """Record until the exit. Raises DeviceUnavailable where counters are absent or may not be read."""
        found = find_packages(self.settings.root)
        if not found:
            raise DeviceUnavailable(
                f"meter rapl: no package under {self.settings.root / 'class' / 'powercap'} (RAPL is on x86 only, is hidden "
                "in most virtual machines, and needs the kernel module intel_rapl_msr)"
            )
        wanted = self.settings.packages or tuple(found)
        for name in wanted:
            if name not in found:
                raise ConfigError(f"no package {name!r}", key="settings.packages", given=name, allowed=found)
        return Recording(self.name, _Counters([found[n] for n in dict.fromkeys(wanted)], self.settings.interval))

    def open(self) -> None:
        """Nothing to take hold of."""

    def close(self) -> None:
        """Nothing is held open."""


class _Counters:
    """Reads all counters once per interval, and unwinds each where it started again."""

    def __init__(self, packages: list[Package], interval_s: float) -> None:
        self._packages, self._interval_s = packages, interval_s
        self._ticks = Ticks(interval_s)
        self._ends: list[float] = []
        self._readings: list[list[int]] = []

    def begin(self) -> None:
        for package in self._packages:
            package.read_uj()

    def poll(self) -> float:
        self._read()
        return self._ticks.wait_s()

    def end(self) -> None:
        self._read()

    def trace(self) -> PowerTrace:
        """Mean power between readings. A late reading loses nothing, because the counter goes on."""
        ends = np.asarray(self._ends)
        ranges = np.asarray([p.range_uj for p in self._packages], dtype=np.int64)
        steps = np.diff(np.asarray(self._readings, dtype=np.int64), axis=0)
        steps += np.where(steps < 0, ranges, 0)
        power_w = steps.sum(axis=1) * 1e-6 / np.diff(ends)
        return PowerTrace(ends[1:], power_w, self._interval_s, tuple(p.name for p in self._packages))

    def _read(self) -> None:
        reading = [package.read_uj() for package in self._packages]
        self._ends.append(time.monotonic())
        self._readings.append(reading)
