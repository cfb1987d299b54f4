"""Nordic Power Profiler Kit II, through `ppk2-api`: 100,000 currents a second and eight logic inputs.

`ppk2-api` opens the port, reads the calibration and sends the commands. Samples are converted here, all at once after
the recording: a Python loop over 100,000 a second does not keep up, and it drops the counter that shows lost samples.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.estimate import Volts
from hwnas.core.measurement import Fidelity
from hwnas.errors import DeviceUnavailable
from hwnas.meters.clock import fit_clock
from hwnas.meters.recorder import Recording
from hwnas.meters.trace import PowerTrace, gates_of

INTERVAL_S = 1e-5
POLL_S = 2e-3
BEHIND_BYTES = 2048
"""A piece that is longer came while this computer was busy: more is waiting."""
QUIET_S = 0.1
TAIL_S = 0.5
"""How long nothing has to come until a stream counts as ended: before a recording, and after it was stopped."""
SILENCE_S = 1.0
"""A meter that was started and sends nothing for so long is gone, or its supply shut off on overcurrent."""
DRAIN_S = 5.0
COUNTER = 64
RANGES = 5
SETTLE = 3
"""Samples from a change of the measuring range on that show the amplifier settling, not the current."""


class Ppk2Settings(BaseModel):
    """Settings of the meter `ppk2`: in mode `source` it feeds the board, in mode `ampere` the board's supply goes through."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    port: str = Field(min_length=1)
    mode: Literal["source", "ampere"]
    voltage: Volts = Field(ge=0.8, le=5.0, description="what it feeds the board with, or what goes through it")
    trigger: Literal["D0", "D1", "D2", "D3", "D4", "D5", "D6", "D7"] | None = None


class Ppk2Meter:
    """A PPK2; in mode `source` the board has power from `open` to `close`."""

    name = "ppk2"
    fidelity = Fidelity.HARDWARE

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = validate(Ppk2Settings, dict(settings), "meter ppk2")
        self._api: Any = None

    def open(self) -> None:
        """Connect and set the mode; `record` does it where nobody did before. Raises DeviceUnavailable."""
        if self._api is not None:
            return
        try:
            from ppk2_api.ppk2_api import PPK2_API
        except ImportError as error:
            raise DeviceUnavailable("meter ppk2 needs the package ppk2-api: pip install 'hwnas[boards]'") from error
        try:
            api = PPK2_API(self.settings.port, timeout=1, write_timeout=1, exclusive=True)
        except (OSError, ValueError) as error:  # pyserial's error is an OSError
            raise DeviceUnavailable(f"meter ppk2: {self.settings.port} cannot be opened: {error}") from error
        try:
            api.stop_measuring()
            _drain(api)
            if not api.get_modifiers():
                raise DeviceUnavailable(f"meter ppk2: what is at {self.settings.port} does not answer as a PPK2 does")
            getattr(api, f"use_{self.settings.mode}_meter")()
            api.set_source_voltage(round(self.settings.voltage * 1000))
            api.toggle_DUT_power("ON")
        except OSError as error:
            api.ser.close()
            raise DeviceUnavailable(f"meter ppk2: {error}") from error
        except DeviceUnavailable:
            api.ser.close()
            raise
        self._api = api

    def record(self) -> Recording:
        """Record until the exit. Raises DeviceUnavailable."""
        self.open()
        return Recording(self.name, _Stream(self._api, self.settings))

    def close(self) -> None:
        """Cut the board's power in mode `source`, and let go of the port."""
        if self._api is not None:
            if self.settings.mode == "source":
                self._api.toggle_DUT_power("OFF")
            with contextlib.suppress(OSError):
                self._api.ser.close()
            self._api = None


class _Stream:
    """Keeps the pieces of the stream and when each arrived; makes sense of them at the end."""

    def __init__(self, api: Any, settings: Ppk2Settings) -> None:
        self._api, self._settings = api, settings
        self._pieces: list[bytes] = []
        self._arrived_s: list[float] = []
        self._heard_s = self._stopped_s = 0.0

    def begin(self) -> None:
        _drain(self._api)
        self._api.start_measuring()
        self._heard_s = time.monotonic()

    def poll(self) -> float:
        piece, now = self._api.get_data(), time.monotonic()
        if piece:
            self._keep(piece, now)
        elif now - self._heard_s > SILENCE_S:
            raise DeviceUnavailable(f"meter ppk2 sent nothing for {SILENCE_S:g} s during the recording")
        return 0.0 if len(piece) > BEHIND_BYTES else POLL_S

    def end(self) -> None:
        self._stopped_s = time.monotonic()
        self._api.stop_measuring()
        for piece, now in _until_quiet(self._api, TAIL_S):
            self._keep(piece, now)

    def trace(self) -> PowerTrace:
        data = b"".join(self._pieces)
        words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
        rails = ("VOUT",) if self._settings.mode == "source" else ("VIN",)
        if len(words) < 2:
            return PowerTrace(np.empty(0), np.empty(0), INTERVAL_S, rails)
        index, lost = count_samples(words)
        whole = np.cumsum([len(p) for p in self._pieces]) // 4
        known = whole > 0
        clock = fit_clock(index[whole[known] - 1], np.asarray(self._arrived_s)[known], INTERVAL_S, self._stopped_s)
        ends_s = clock.ends_s(index)
        power_w = currents_a(words, self._api.modifiers, self._settings.voltage) * self._settings.voltage
        gates = None
        if self._settings.trigger is not None:
            gates = gates_of((words >> (24 + int(self._settings.trigger[1])) & 1).astype(bool), ends_s, INTERVAL_S)
        return PowerTrace(
            ends_s, power_w, INTERVAL_S, rails, lost, clock.unseen, gates=gates, trigger=self._settings.trigger or "",
        )  # fmt: skip

    def _keep(self, piece: bytes, now: float) -> None:
        self._pieces.append(piece)
        self._arrived_s.append(now)
        self._heard_s = now


def count_samples(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each sample by the meter's own count, and how many were lost just before it: n, n.

    The counter runs modulo 64, so that a loss of a multiple of 64 does not show in it.
    """
    counter = (words >> 18 & (COUNTER - 1)).astype(np.int64)
    lost = np.zeros(len(words), np.int64)
    lost[1:] = (np.diff(counter) - 1) % COUNTER
    return np.arange(len(words)) + np.cumsum(lost), lost


def currents_a(words: np.ndarray, modifiers: Mapping[str, Mapping[str, float]], volts: float) -> np.ndarray:
    """The currents (A) of n samples by the calibration that the meter holds, as `ppk2-api` computes them: n.

    While the amplifier settles after a change of range, the first settled value stands.
    """
    ranges = np.minimum(words >> 14 & 7, RANGES - 1).astype(int)
    adc = (words & 0x3FFF).astype(float) * 4

    def factor(name: str) -> np.ndarray:
        found: np.ndarray = np.asarray([float(modifiers[name][str(i)]) for i in range(RANGES)])[ranges]
        return found

    plain = (adc - factor("O")) * (1.8 / 163840 / factor("R"))
    amps: np.ndarray = factor("UG") * (
        plain * (factor("GS") * plain + factor("GI")) + factor("S") * volts + factor("I")
    )
    changed = np.flatnonzero(np.diff(ranges)) + 1
    settling = np.zeros(len(words), bool)
    for step in range(SETTLE):
        settling[changed[changed + step < len(words)] + step] = True
    settled = np.flatnonzero(~settling)
    following = settled[np.minimum(np.searchsorted(settled, np.arange(len(words))), len(settled) - 1)]
    return amps[following]


def _drain(api: Any) -> None:
    for _ in _until_quiet(api, QUIET_S):
        pass


def _until_quiet(api: Any, quiet_s: float) -> Iterator[tuple[bytes, float]]:
    """Pieces and their arrival until nothing comes any more. Raises DeviceUnavailable where that never happens.

    Looks are counted, not time: this computer may have been too busy to look.
    """
    deadline, empty = time.monotonic() + DRAIN_S, 0
    while empty < quiet_s / POLL_S:
        piece, now = api.get_data(), time.monotonic()
        if now > deadline:
            raise DeviceUnavailable("meter ppk2 goes on sending after it was told to stop")
        empty = 0 if piece else empty + 1
        if piece:
            yield piece, now
        time.sleep(0.0 if len(piece) > BEHIND_BYTES else POLL_S)
