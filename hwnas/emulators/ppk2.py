"""An emulated Nordic Power Profiler Kit II: its serial protocol, about a load that is known.

A sample is a little-endian word of 32 bits: ADC value in bits 0 to 13, measuring range in 14 to 16, a counter modulo 64
in 18 to 23 and the logic inputs in 24 to 31; 100,000 come per second. Ideal calibration; current noise is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from hwnas.emulators.load import Load
from hwnas.emulators.port import PtyInstrument

RATE_HZ = 100_000
SHUNTS_OHM = (1031.64, 101.65, 10.15, 0.94, 0.043)
ADC_VOLTS = 1.8 / 163840 * 4
ADC_TOP = 16_000
MOST_AT_ONCE = 20_000
_LENGTHS = {0x0C: 2, 0x0D: 3, 0x11: 2}
"""Commands that take arguments, with their length."""
_START, _STOP, _METADATA = 0x06, 0x07, 0x19


class Ppk2Emulator(PtyInstrument):
    """A PPK2 that measures `load`; `skip` maps a sample's index to how many samples vanish there, as on a busy USB.

    `channel` is the logic input that the load's trigger is wired to, None for no wire.
    """

    def __init__(self, load: Load, skip: Mapping[int, int] | None = None, channel: int | None = 0) -> None:
        self.behaviour = _Ppk2(load, dict(skip or {}), channel)
        super().__init__(self.behaviour)


class _Ppk2:
    def __init__(self, load: Load, skip: dict[int, int], channel: int | None) -> None:
        self._load, self._skip, self._channel = load, skip, channel
        self._began_s: float | None = None
        self._sent = 0
        self._pending = b""
        self.commands: list[bytes] = []
        """Every command received, with its arguments."""

    def received(self, data: bytes) -> bytes:
        answer = b""
        self._pending += data
        while self._pending and len(self._pending) >= (length := _LENGTHS.get(self._pending[0], 1)):
            command, self._pending = self._pending[:length], self._pending[length:]
            self.commands.append(command)
            if command[0] == _METADATA:
                answer += _metadata()
            elif command[0] == _START:
                self._began_s, self._sent = time.monotonic(), 0
            elif command[0] == _STOP and self._began_s is not None:
                answer += self._taken(most=None)  # what was measured before the command still goes out
                self._began_s = None
        return answer

    def stream(self) -> bytes:
        return self._taken(MOST_AT_ONCE)

    def _taken(self, most: int | None) -> bytes:
        if self._began_s is None:
            return b""
        due = int((time.monotonic() - self._began_s) * RATE_HZ)
        due = due if most is None else min(due, self._sent + most)
        index = np.arange(self._sent, due)
        self._sent = max(self._sent, due)
        for at, count in self._skip.items():
            index = index[(index < at) | (index >= at + count)]
        return self._words(index).tobytes()

    def _words(self, index: np.ndarray) -> np.ndarray:
        assert self._began_s is not None
        amps, raised = self._load.at(self._began_s + index / RATE_HZ)
        levels = amps[:, None] * np.asarray(SHUNTS_OHM) / ADC_VOLTS
        ranges = np.minimum(np.count_nonzero(levels > ADC_TOP, axis=1), len(SHUNTS_OHM) - 1)
        adc = np.clip(np.rint(levels[np.arange(len(index)), ranges]), 0, 2**14 - 1).astype(np.uint32)
        logic = np.zeros(len(index), np.uint32) if self._channel is None else raised.astype(np.uint32) << self._channel
        words: np.ndarray = adc | ranges.astype(np.uint32) << 14 | (index & 63).astype(np.uint32) << 18 | logic << 24
        return words.astype(np.dtype("<u4"))


def _metadata() -> bytes:
    ideal = {"O": 0, "S": 0, "I": 0, "GS": 0, "GI": 1, "UG": 1}
    lines = ["Calibrated: 1", *(f"R{i}: {ohm}" for i, ohm in enumerate(SHUNTS_OHM))]
    lines += [f"{name}{i}: {value}" for name, value in ideal.items() for i in range(len(SHUNTS_OHM))]
    return "\n".join([*lines, "HW: 9173", "IA: 56", "END", ""]).encode()
