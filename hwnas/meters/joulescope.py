"""Joulescope JS110 and JS220, through the package `joulescope`; in-line with the board's supply.

Written after the package's documentation and its public use in the MLPerf Tiny runner, and never run on a device: before
its first joules are believed, hold them against a known resistor. What is lost between the device and the package is
seen by the package alone, which marks missing samples as not-a-number; they are counted here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from hwnas.config import validate
from hwnas.core.measurement import Fidelity
from hwnas.errors import DeviceUnavailable
from hwnas.meters.clock import fit_clock
from hwnas.meters.recorder import Recording
from hwnas.meters.trace import PowerTrace, gates_of

POLL_S = 0.02
SILENCE_S = 1.0
_TRIGGERS = {"GPI0": "current_lsb", "GPI1": "voltage_lsb"}
"""Which bit of the stream carries an input once it is told to."""


class JoulescopeSettings(BaseModel):
    """Settings of the meter `joulescope`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    serial_number: str | None = None
    samples_per_s: Literal[1000, 10_000, 100_000] = 10_000
    trigger: Literal["GPI0", "GPI1"] | None = None


class JoulescopeMeter:
    """A Joulescope. Untested on a device."""

    name = "joulescope"
    fidelity = Fidelity.HARDWARE

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = validate(JoulescopeSettings, dict(settings), "meter joulescope")
        self._device: Any = None

    def open(self) -> None:
        """Find and open the device; `record` does it where nobody did before. Raises DeviceUnavailable."""
        if self._device is not None:
            return
        try:
            import joulescope
        except ImportError as error:
            raise DeviceUnavailable("meter joulescope needs the package joulescope: pip install joulescope") from error
        wanted = self.settings.serial_number
        devices = [d for d in joulescope.scan(config="off") if wanted is None or wanted in str(d)]
        if len(devices) != 1:
            which = "no Joulescope" if not devices else f"{len(devices)} Joulescopes (set serial_number)"
            raise DeviceUnavailable(f"meter joulescope: {which} found")
        device = devices[0]
        try:
            device.open()
            device.parameter_set("sensor_power", "on")
            device.parameter_set("i_range", "auto")
            device.parameter_set("sampling_frequency", self.settings.samples_per_s)
            if self.settings.trigger is not None and "JS110" in str(device):  # a JS220 streams its inputs anyway
                device.parameter_set(_TRIGGERS[self.settings.trigger], self.settings.trigger.lower())
        except Exception as error:  # the package raises its own classes and plain ones
            raise DeviceUnavailable(f"meter joulescope: {error}") from error
        self._device = device

    def record(self) -> Recording:
        """Record until the exit. Raises DeviceUnavailable."""
        self.open()
        return Recording(self.name, _Stream(self._device, self.settings))

    def close(self) -> None:
        """Let go of the device."""
        if self._device is not None:
            with contextlib.suppress(Exception):
                self._device.close()
            self._device = None


class _Stream:
    """Takes what is new in the package's stream buffer."""

    def __init__(self, device: Any, settings: JoulescopeSettings) -> None:
        self._device, self._settings = device, settings
        self._power: list[np.ndarray] = []
        self._line: list[np.ndarray] = []
        self._arrivals: list[tuple[int, float]] = []
        self._next: int | None = None
        self._taken = 0
        self._heard_s = 0.0

    def begin(self) -> None:
        try:
            self._device.start()
        except Exception as error:
            raise DeviceUnavailable(f"meter joulescope: {error}") from error
        self._heard_s = time.monotonic()

    def poll(self) -> float:
        now = time.monotonic()
        if self._take(now):
            self._heard_s = now
        elif now - self._heard_s > SILENCE_S:
            raise DeviceUnavailable(f"meter joulescope sent nothing for {SILENCE_S:g} s during the recording")
        return POLL_S

    def end(self) -> None:
        self._take(time.monotonic())
        self._device.stop()

    def trace(self) -> PowerTrace:
        interval_s = 1 / self._settings.samples_per_s
        if not self._arrivals:
            return PowerTrace(np.empty(0), np.empty(0), interval_s, ("IN",))
        power_w = np.concatenate(self._power)
        index = np.arange(len(power_w))
        last, arrived = (np.asarray(column) for column in zip(*self._arrivals))
        ends_s = fit_clock(last, arrived, interval_s, float(arrived[-1])).ends_s(index)
        there = np.flatnonzero(np.isfinite(power_w))
        gates = None
        if self._settings.trigger is not None:
            gates = gates_of(np.concatenate(self._line) > 0, ends_s, interval_s)
        lost = np.diff(there, prepend=-1) - 1
        return PowerTrace(
            ends_s[there], power_w[there], interval_s, ("IN",), lost, gates=gates, trigger=self._settings.trigger or "",
        )  # fmt: skip

    def _take(self, now: float) -> int:
        """How many samples were new."""
        buffer = self._device.stream_buffer
        begin, end = buffer.sample_id_range
        if begin is None:  # nothing has come yet
            return 0
        start = begin if self._next is None else max(self._next, begin)
        missed = 0 if self._next is None else start - self._next
        if end <= start:
            return 0
        fields = ["power", *([_TRIGGERS[self._settings.trigger]] if self._settings.trigger else [])]
        signals = buffer.samples_get(start, end, fields=fields)["signals"]
        gap = np.full(missed, np.nan)
        power = np.asarray(signals["power"]["value"])
        self._power.append(np.concatenate([gap, power]))
        if self._settings.trigger is not None:
            self._line.append(np.concatenate([np.zeros(missed), np.asarray(signals[fields[1]]["value"])]))
        self._next, self._taken = end, self._taken + missed + len(power)
        self._arrivals.append((self._taken - 1, now))
        return len(power)
