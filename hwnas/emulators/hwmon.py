"""Emulated `/sys` trees whose values change: INA monitors under hwmon, and RAPL packages under powercap.

A thread writes each value as often as the chip would, whole: a reader never sees half a number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from hwnas.emulators.load import Load

SELF = TypeVar("SELF", bound="SysTree")
JOIN_S = 5.0


class SysTree:
    """Files under `root` whose texts are computed again every `interval_s` seconds; use it as a context."""

    def __init__(self, root: Path, interval_s: float) -> None:
        self.root, self._interval_s = root, interval_s
        self._changing: dict[Path, Callable[[float], str]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name=f"emulator-{root}")

    def write(self, path: str, text: str) -> None:
        """A file that stays as it is; one that varied no longer does."""
        with self._lock:
            self._changing.pop(self.root / path, None)
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            self._put(self.root / path, text)

    def vary(self, path: str, text: Callable[[float], str]) -> None:
        """A file whose text depends on the time (s, `time.monotonic`)."""
        self.write(path, text(time.monotonic()))
        with self._lock:
            self._changing[self.root / path] = text

    def unplug(self, path: str) -> None:
        """Take a file away, as when a driver lets go of its chip."""
        with self._lock:
            self._changing.pop(self.root / path, None)
            (self.root / path).unlink(missing_ok=True)

    def __enter__(self: SELF) -> SELF:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)

    def _serve(self) -> None:
        while not self._stop.wait(self._interval_s):
            with self._lock:
                now = time.monotonic()
                for path, text in self._changing.items():
                    self._put(path, text(now))

    def _put(self, path: Path, text: str) -> None:
        half = path.with_name(f".{path.name}.half")
        half.write_text(text + "\n")
        half.replace(path)


class HwmonTree(SysTree):
    """INA monitors of one or more chips; give each chip its rails, and each rail its load."""

    def __init__(self, root: Path, update_ms: int = 5) -> None:
        super().__init__(root, update_ms * 1e-3)
        self._update_ms, self._chips = update_ms, 0

    def add_chip(self, chip: str, rails: Mapping[str, Load] | Sequence[Load]) -> str:
        """Add a chip of that driver, its rails by label or without labels; returns its folder below `root`.

        An INA3221 shows voltage and current; an INA219 or INA226 shows power as well.
        """
        folder = f"class/hwmon/hwmon{self._chips}"
        self._chips += 1
        self.write(f"{folder}/name", chip)
        self.write(f"{folder}/update_interval", str(self._update_ms))
        labels = list(rails) if isinstance(rails, Mapping) else [None] * len(rails)
        loads = list(rails.values()) if isinstance(rails, Mapping) else list(rails)
        for channel, (label, load) in enumerate(zip(labels, loads), 1):
            if label is not None:
                self.write(f"{folder}/in{channel}_label", label)
            self.write(f"{folder}/in{channel}_input", str(round(load.volts * 1000)))
            self.vary(f"{folder}/curr{channel}_input", _rounded(load, 1e3))
            if chip != "ina3221":
                self.vary(f"{folder}/power{channel}_input", _rounded(load, 1e6 * load.volts))
        return folder


class PowercapTree(SysTree):
    """RAPL packages, each with a subzone and its memory-mapped double, and the platform zone; a load for each package.

    Counters start at `start_uj` and start again at 0 after `range_uj`.
    """

    def __init__(
        self, root: Path, packages: Sequence[Load], start_uj: int = 0, range_uj: int = 262_143_328_850
    ) -> None:
        super().__init__(root, 1e-3)
        began = time.monotonic()
        for i, load in enumerate(packages):
            package = f"class/powercap/intel-rapl:{i}"
            zones = {
                package: f"package-{i}",
                f"{package}:0": "core",
                f"class/powercap/intel-rapl-mmio:{i}": f"package-{i}",
            }
            if i == 0:
                zones[f"class/powercap/intel-rapl:{len(packages)}"] = "psys"
            for zone, name in zones.items():
                self.write(f"{zone}/name", name)
                self.write(f"{zone}/max_energy_range_uj", str(range_uj))
                if zone != package:  # the same counter, so that whoever adds one of these counts twice
                    (root / zone / "energy_uj").symlink_to(root / package / "energy_uj")
            self.vary(f"{package}/energy_uj", _counter(load, began, start_uj, range_uj))


def _rounded(load: Load, factor: float) -> Callable[[float], str]:
    return lambda now: str(round(float(load.at(np.asarray([now]))[0][0]) * factor))


def _counter(load: Load, began: float, start_uj: int, range_uj: int) -> Callable[[float], str]:
    return lambda now: str((start_uj + int(load.energy_j(began, now) * 1e6)) % range_uj)
