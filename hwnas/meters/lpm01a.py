"""ST X-NUCLEO-LPM01A (PowerShield), over its serial port: energy of each interval, in ASCII.

Commands and stream follow ST's UM2269 (revision 6): chapter 4.3 the commands, 4.4.1 the stream. The board's trigger goes
to D7. The meter reports one kind of edge as an event in the stream, which UM2269 does not describe: it is read as the
public MLPerf Tiny runner reads it. It feeds the board, 1.8 to 3.3 V and up to 50 mA.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.estimate import Volts
from hwnas.core.measurement import Fidelity
from hwnas.errors import DeviceUnavailable
from hwnas.meters.clock import fit_clock
from hwnas.meters.recorder import Recording
from hwnas.meters.trace import Gate, PowerTrace

BAUD = 3_686_400
ANSWER_S = 5.0
"""A command is answered at once, but a new voltage is calibrated first."""
POLL_S = 2e-3
SILENCE_S = 1.0
PROMPT = "PowerShield >"
WRAP_S = 1000
_SAMPLE = re.compile(r"(\d{4})([+-]\d{2})")
_STAMP = re.compile(r"TimeStamp:\s*(\d{3})s (\d{3})ms")


class Lpm01aSettings(BaseModel):
    """Settings of the meter `lpm01a`. ASCII keeps up with 5000 samples a second without end.

    trigger `level`: D7 is high while the loop runs, and its falling edge ends the window. `pulses`: D7 pulses once at the
    begin and once at the end of the loop, as in MLPerf Tiny's energy mode.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    port: str = Field(min_length=1)
    voltage: Volts = Field(ge=1.8, le=3.3)
    samples_per_s: Literal[100, 200, 500, 1000, 2000, 5000] = 1000
    trigger: Literal["level", "pulses"] | None = None


class Lpm01aMeter:
    """An LPM01A; the board has power from `open` to `close`."""

    name = "lpm01a"
    fidelity = Fidelity.HARDWARE

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = validate(Lpm01aSettings, dict(settings), "meter lpm01a")
        self._shell: _Shell | None = None

    def open(self) -> None:
        """Take control and feed the board; `record` does it where nobody did before. Raises DeviceUnavailable."""
        if self._shell is not None:
            return
        shell = _Shell(self.settings.port)
        rate = self.settings.samples_per_s
        commands = [
            "htc", "acqtime inf", "trigsrc sw", "trigdelay 0", "output energy", "format ascii_dec",
            f"freq {rate // 1000}k" if rate >= 1000 else f"freq {rate}",
            f"volt {round(self.settings.voltage * 1000)}m",
            *(["eventsrc d7 fal"] if self.settings.trigger else []),
            "pwrend on", "pwr on nostatus",
        ]  # fmt: skip
        try:
            for command in commands:
                shell.ask(command)
        except (DeviceUnavailable, OSError) as error:
            shell.close()
            raise DeviceUnavailable(f"meter lpm01a at {self.settings.port}: {error}") from error
        self._shell = shell

    def record(self) -> Recording:
        """Record until the exit. Raises DeviceUnavailable."""
        self.open()
        assert self._shell is not None
        return Recording(self.name, _Stream(self._shell, self.settings))

    def close(self) -> None:
        """Cut the board's power, hand control back and let go of the port."""
        if self._shell is not None:
            with contextlib.suppress(DeviceUnavailable, OSError):
                self._shell.ask("pwr off")
                self._shell.ask("hrc")
            self._shell.close()
            self._shell = None


class _Shell:
    """The meter's command line: one command, one line that acknowledges it or not."""

    def __init__(self, port: str) -> None:
        import serial

        try:
            self._serial = serial.serial_for_url(port, BAUD, timeout=0, write_timeout=1, exclusive=True)
        except (OSError, ValueError) as error:  # pyserial's error is an OSError
            raise DeviceUnavailable(f"meter lpm01a: {port} cannot be opened: {error}") from error
        self._rest = b""
        self._unread: deque[str] = deque()

    def ask(self, command: str) -> None:
        """Send a command and wait for its acknowledgement. Raises DeviceUnavailable with the meter's words, OSError."""
        self.send(command)
        for line in self._until(ANSWER_S):
            words = line.removeprefix(PROMPT).split()
            if words[:2] == ["ack", command.split()[0]]:
                return
            if words and words[0] in ("err", "error"):
                detail = next((x for x in self._until(0.2) if x.startswith("Error detail")), "")
                raise DeviceUnavailable(f"{command!r} was refused: {line} {detail}".strip())
        raise DeviceUnavailable(f"no answer to {command!r} within {ANSWER_S:g} s; is it an LPM01A?")

    def send(self, command: str) -> None:
        self._serial.write(command.encode() + b"\r\n")

    def lines(self) -> list[str]:
        """The lines that have arrived and were not read yet."""
        self._receive()
        unread = list(self._unread)
        self._unread.clear()
        return unread

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._serial.close()

    def _until(self, timeout_s: float) -> Iterator[str]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._receive()
            while self._unread:  # one by one: what follows an answer is not ours to take
                yield self._unread.popleft()
            time.sleep(POLL_S)

    def _receive(self) -> None:
        *whole, self._rest = (self._rest + self._serial.read(max(self._serial.in_waiting, 1))).split(b"\n")
        self._unread += [text for line in whole if (text := line.decode("ascii", "replace").strip("\r\0 "))]


@dataclass
class _Decoded:
    """The stream so far: energy and index of every sample, marks by the index of the sample before, what was lost."""

    rate_hz: int
    energy_j: list[float] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    fault: str | None = None
    ended: bool = False
    next_index: int = 0
    pending: int = 0

    def feed(self, line: str) -> None:
        """Take in one line. Samples begin with a digit, everything else with a letter."""
        line = line.removeprefix(PROMPT).strip()
        if self.ended:
            return  # the summary repeats extremes in the form of samples
        if match := _SAMPLE.fullmatch(line):
            self.energy_j.append(int(match[1]) * 10.0 ** int(match[2]))
            self.index.append(self.next_index)
            self.lost.append(self.pending)
            self.next_index, self.pending = self.next_index + 1, 0
        elif match := _STAMP.match(line):
            self._stamped(int(match[1]) * 1000 + int(match[2]))
        elif line.startswith("event "):
            self.marks.append(self.next_index)
        elif line.startswith("error"):
            self.fault = line.removeprefix("error").strip() or "unknown"
        elif line == "end":
            self.ended = True

    def _stamped(self, stamp_ms: int) -> None:
        """The meter's clock says how many samples there should be; a stamp runs to 999.999 s and starts again."""
        wrap = WRAP_S * self.rate_hz
        due = round(stamp_ms * self.rate_hz / 1000)
        missing = (due - self.next_index + wrap // 2) % wrap - wrap // 2
        if missing > 0:
            self.pending += missing
            self.next_index += missing


class _Stream:
    """Decodes lines as they come, and notes when each piece arrived."""

    def __init__(self, shell: _Shell, settings: Lpm01aSettings) -> None:
        self._shell, self._settings = shell, settings
        self._decoded = _Decoded(settings.samples_per_s)
        self._arrivals: list[tuple[int, float]] = []
        self._heard_s = self._stopped_s = 0.0

    def begin(self) -> None:
        self._shell.lines()
        self._shell.ask("start")
        self._heard_s = time.monotonic()

    def poll(self) -> float:
        self._take()
        if self._decoded.fault is not None:
            raise DeviceUnavailable(f"meter lpm01a reports: {self._decoded.fault}")
        if self._decoded.ended:
            raise DeviceUnavailable("meter lpm01a ended the recording by itself")
        if time.monotonic() - self._heard_s > SILENCE_S:
            raise DeviceUnavailable(f"meter lpm01a sent nothing for {SILENCE_S:g} s during the recording")
        return POLL_S

    def end(self) -> None:
        if self._decoded.ended:
            return
        self._stopped_s = time.monotonic()
        self._shell.send("stop")
        deadline = time.monotonic() + ANSWER_S
        while not self._decoded.ended:
            if time.monotonic() > deadline:
                raise DeviceUnavailable(f"meter lpm01a did not stop within {ANSWER_S:g} s")
            self._take()
            time.sleep(POLL_S)

    def trace(self) -> PowerTrace:
        found, interval_s = self._decoded, 1 / self._settings.samples_per_s
        if len(found.energy_j) < 2 or not self._arrivals:
            return PowerTrace(np.empty(0), np.empty(0), interval_s, ("VOUT",))
        last, arrived = (np.asarray(column) for column in zip(*self._arrivals))
        clock = fit_clock(last, arrived, interval_s, self._stopped_s)
        power_w = np.asarray(found.energy_j) / interval_s
        return PowerTrace(
            clock.ends_s(np.asarray(found.index)), power_w, interval_s, ("VOUT",), np.asarray(found.lost), clock.unseen,
            gates=self._gates(clock.ends_s(np.asarray(found.marks, dtype=float) - 1)), trigger="D7",
        )  # fmt: skip

    def _gates(self, marks_s: np.ndarray) -> tuple[Gate, ...] | None:
        """The gates by the times of the marks: m."""
        if self._settings.trigger is None:
            return None
        times = [float(t) for t in marks_s]
        if self._settings.trigger == "level":
            return tuple(Gate(None, t) for t in times)
        return tuple(Gate(rise, fall) for rise, fall in zip(times[::2], times[1::2]))

    def _take(self) -> None:
        lines, now = self._shell.lines(), time.monotonic()
        before = len(self._decoded.index)
        for line in lines:
            self._decoded.feed(line)
        if len(self._decoded.index) > before:
            self._arrivals.append((self._decoded.index[-1], now))
        if lines:
            self._heard_s = now
