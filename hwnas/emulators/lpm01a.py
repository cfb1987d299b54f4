"""An emulated X-NUCLEO-LPM01A (PowerShield): its ASCII protocol, about a load that is known.

Commands and stream are those of ST's UM2269 (revision 6), chapters 4.3 and 4.4.1: energy since the sample before as
`6409-07` (6409e-7 J), a timestamp after every 1000 samples, `end` and a summary after `stop`. Events of the trigger
input, which the firmware reports but UM2269 does not tell of, follow the public MLPerf Tiny runner: `event 1 ris`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from hwnas.emulators.load import Load
from hwnas.emulators.port import PtyInstrument

STAMP_EVERY = 1000
MOST_AT_ONCE = 2000
PROMPT = "PowerShield > "
_KNOWN = ("acqtime", "acqmode", "trigsrc", "trigdelay", "eventsrc", "output", "format", "freq", "volt", "pwr", "pwrend",
          "lcd", "htc", "hrc", "powershield", "version", "status")  # fmt: skip


class Lpm01aEmulator(PtyInstrument):
    """An LPM01A that measures `load`; `skip` maps a sample's index to how many vanish there.

    `pulses`: the load's trigger marks begin and end by a short pulse each, as in MLPerf Tiny's energy mode; else its
    level is the gate, of which the meter shows the falling edge. `error_at`: the index of a sample where the meter
    reports a fault.
    """

    def __init__(
        self, load: Load, skip: Mapping[int, int] | None = None, pulses: bool = False, error_at: int | None = None
    ) -> None:
        self.behaviour = _Lpm01a(load, dict(skip or {}), pulses, error_at)
        super().__init__(self.behaviour)


class _Lpm01a:
    def __init__(self, load: Load, skip: dict[int, int], pulses: bool, error_at: int | None) -> None:
        self._load, self._skip, self._pulses, self._error_at = load, skip, pulses, error_at
        self._rate_hz, self._events = 100.0, 0
        self._controlled = False
        self._began_s: float | None = None
        self._sent = 0
        self._raised = False
        self._line = b""
        self.commands: list[str] = []
        """Every command line received."""

    def received(self, data: bytes) -> bytes:
        answer = b""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if text := line.decode(errors="replace").strip():
                self.commands.append(text)
                answer += self._answer(text)
        return answer

    def stream(self) -> bytes:
        return self._taken(MOST_AT_ONCE)

    def _taken(self, most: int | None) -> bytes:
        if self._began_s is None:
            return b""
        due = int((time.monotonic() - self._began_s) * self._rate_hz)
        due = due if most is None else min(due, self._sent + most)
        text = "".join(self._sample(i) for i in range(self._sent, due))
        self._sent = max(self._sent, due)
        return text.encode()

    def _answer(self, command: str) -> bytes:
        verb, *arguments = command.split()
        if verb == "stop":
            tail = self._taken(most=None)
            self._began_s = None
            summary = "end\r\nsummary begin\r\n1000-06\r\n9000-06\r\nsummary end\r\n"
            return tail + f"{PROMPT}ack stop\r\n{summary}{PROMPT}Acquisition completed\r\n".encode()
        if verb == "start":
            if not self._controlled:
                return f"{PROMPT}err start\r\nError detail: host has no control\r\n".encode()
            self._began_s, self._sent, self._events, self._raised = time.monotonic(), 0, 0, False
            return f"{PROMPT}ack start\r\n".encode()
        if verb not in _KNOWN:
            return f"{PROMPT}err {command}\r\nError detail: unknown command\r\n".encode()
        if verb in ("htc", "hrc"):
            self._controlled = verb == "htc"
        if verb == "freq":
            self._rate_hz = float(arguments[0].rstrip("k")) * (1e3 if arguments[0].endswith("k") else 1)
        if verb == "powershield":
            return f"{PROMPT}ack powershield 540619864-1110659081-4784204\r\n".encode()
        return f"{PROMPT}ack {command}\r\n".encode()

    def _sample(self, index: int) -> str:
        assert self._began_s is not None
        begin = self._began_s + index / self._rate_hz
        end = begin + 1 / self._rate_hz
        raised = bool(self._load.at(np.asarray([end]))[1][0])
        text = ""
        if not any(at <= index < at + count for at, count in self._skip.items()):
            text = decimal(self._load.energy_j(begin, end)) + "\r\n"
        if raised != self._raised and (self._pulses or not raised):
            self._events += 1
            text += f"event {self._events} ris\r\n"
        self._raised = raised
        if index == self._error_at:
            text += "error Voltage drop\r\n"
        if (index + 1) % STAMP_EVERY == 0:
            now_ms = round((index + 1) / self._rate_hz * 1000)
            text += f"\r\nTimeStamp: {now_ms // 1000 % 1000:03d}s {now_ms % 1000:03d}ms, buff 00%\r\n"
        return text


def decimal(value: float) -> str:
    """A number as the meter writes it: four digits, the sign of the power of ten, and two digits of it."""
    if value <= 0:
        return "0000-00"
    exponent = math.floor(math.log10(value)) - 3
    digits = round(value / 10.0**exponent)
    if digits == 10_000:
        digits, exponent = 1000, exponent + 1
    return f"{digits:04d}{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
