"""INA219, INA226 and INA3221 power monitors, as Linux shows them under `/sys/class/hwmon`.

Of this computer, or of a board behind a command such as ssh, which then prints readings line by line: they are dated when
they arrive, so that the way to the board has to be quick beside the update interval. Reading costs the board a little
power, in idle time as much as under load.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.estimate import Seconds
from hwnas.core.lab import Command
from hwnas.core.measurement import Fidelity
from hwnas.errors import DeviceUnavailable
from hwnas.meters.rails import CHIPS, Rail, choose_rails, find_rails, listing_script, texts_here, texts_in
from hwnas.meters.recorder import Recording, Ticks
from hwnas.meters.trace import PowerTrace

SHORTEST_INTERVAL_S = 1e-3
SHORTEST_REMOTE_INTERVAL_S = 0.02
ANSWER_S = 20.0
"""Deadline of the command that reaches the board: a login takes a while."""
LATE_LIMIT = 0.5
"""Readings that came too late make a smaller sample of a steady power, no hole in a stream; half of them may."""
SILENCE_S = 5.0
POLL_S = 0.05
STOP_S = 2.0


class HwmonSettings(BaseModel):
    """Settings of the meter `hwmon`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    root: Path = Path("/sys")
    chip: str | None = Field(default=None, description="the driver's name, such as ina3221; None: any INA monitor")
    rails: tuple[str, ...] | None = Field(
        default=None, description="which rails are summed; None: the one that is total"
    )
    interval: Seconds | None = Field(default=None, gt=0, description="None: the update interval of the chips")
    via: Command | None = Field(
        default=None, description="runs a shell script on the board, such as [ssh, user@jetson]"
    )


class HwmonMeter:
    """The INA monitors of this computer or of the board, read once per update interval."""

    name = "hwmon"
    fidelity = Fidelity.HARDWARE

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = validate(HwmonSettings, dict(settings), "meter hwmon")
        self._rails: tuple[Rail, ...] = ()

    def open(self) -> None:
        """Find the rails; `record` does it where nobody did before.

        Raises DeviceUnavailable where there is no monitor, ConfigError for unclear rails.
        """
        if self._rails:
            return
        root, chip, via = self.settings.root, self.settings.chip, self.settings.via
        texts = texts_here(root) if via is None else texts_in(_answer([*via, listing_script(root)]))
        rails = find_rails(texts, chip)
        if not rails:
            what = f"the chip {chip}" if chip else f"an INA monitor ({', '.join(CHIPS)})"
            where = f" of {shlex.join(via)}" if via else ""
            raise DeviceUnavailable(f"meter hwmon: {what} is not under {root / 'class' / 'hwmon'}{where}")
        self._rails = choose_rails(rails, self.settings.rails)

    def record(self) -> Recording:
        """Record until the exit. Raises as `open` does."""
        self.open()
        interval_s, via = self.settings.interval or max(rail.interval_s for rail in self._rails), self.settings.via
        if via is None:
            return Recording(self.name, _Poll(self._rails, max(interval_s, SHORTEST_INTERVAL_S)))
        return Recording(self.name, _Remote(self._rails, max(interval_s, SHORTEST_REMOTE_INTERVAL_S), via))

    def close(self) -> None:
        """Forget the rails; nothing is held open."""
        self._rails = ()


class _Readings:
    """Readings of the sum of some rails, and when they were taken."""

    def __init__(self, rails: tuple[Rail, ...], interval_s: float) -> None:
        self._rails, self._interval_s = rails, interval_s
        self._files = [file for rail in rails for file in rail.files]
        self._ends: list[float] = []
        self._power: list[float] = []

    def add(self, texts: Mapping[str, str], now: float) -> None:
        """Take in the texts of all files. Raises DeviceUnavailable where one is no number."""
        try:
            self._power.append(sum(rail.power_w(texts) for rail in self._rails))
        except ValueError as error:
            raise DeviceUnavailable(f"meter hwmon: a file holds no number: {error}") from error
        self._ends.append(now)

    def trace(self) -> PowerTrace:
        """The trace; a reading that came late counts the updates that it missed."""
        names = tuple(rail.name for rail in self._rails)
        if not self._ends:
            return PowerTrace(np.empty(0), np.empty(0), self._interval_s, names)
        ends = np.asarray(self._ends)
        gaps = np.rint(np.diff(ends, prepend=ends[0] - self._interval_s) / self._interval_s).astype(int)
        return PowerTrace(
            ends, np.asarray(self._power), self._interval_s, names, np.maximum(gaps - 1, 0), lost_limit=LATE_LIMIT
        )


class _Poll(_Readings):
    """Reads this computer's files once per interval."""

    def begin(self) -> None:
        self._read()
        self._ends.clear()
        self._power.clear()
        self._ticks = Ticks(self._interval_s)

    def poll(self) -> float:
        self._read()
        return self._ticks.wait_s()

    def end(self) -> None:
        self._read()

    def _read(self) -> None:
        self.add({file: Path(file).read_text() for file in self._files}, time.monotonic())


class _Remote(_Readings):
    """Runs a loop on the board that prints the files once per interval, a line each time."""

    def __init__(self, rails: tuple[Rail, ...], interval_s: float, via: tuple[str, ...]) -> None:
        super().__init__(rails, interval_s)
        self._via = via
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._heard_s = 0.0

    def begin(self) -> None:
        reads = " && ".join(f"read -r v{i} < {shlex.quote(file)}" for i, file in enumerate(self._files))
        values = " ".join(f"$v{i}" for i in range(len(self._files)))
        script = f'while {reads}; do echo "{values}"; sleep {self._interval_s:g}; done'
        self._process = subprocess.Popen(
            [*self._via, script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + ANSWER_S
        while not self._ends:  # the first line: the login is done
            if time.monotonic() > deadline:
                self.end()
                raise DeviceUnavailable(f"meter hwmon: {shlex.join(self._via)} gave nothing within {ANSWER_S:g} s")
            self._heard_s = time.monotonic()
            try:
                self.poll()
            except DeviceUnavailable:
                self.end()
                raise

    def poll(self) -> float:
        assert self._process is not None
        assert self._process.stdout is not None
        if select.select([self._process.stdout], [], [], POLL_S)[0]:
            data, now = os.read(self._process.stdout.fileno(), 1 << 16), time.monotonic()
            if not data:
                raise DeviceUnavailable(f"meter hwmon: {shlex.join(self._via)} ended: {self._last_words()}")
            self._heard_s = now
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                values = line.decode("ascii", "replace").split()
                if len(values) != len(self._files):
                    raise DeviceUnavailable(f"meter hwmon: the board printed {line[:80]!r} instead of readings")
                self.add(dict(zip(self._files, values)), now)
        elif time.monotonic() - self._heard_s > SILENCE_S:
            raise DeviceUnavailable(f"meter hwmon: the board gave no reading for {SILENCE_S:g} s")
        return 0.0

    def end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        self._process = None

    def _last_words(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if not select.select([self._process.stderr], [], [], 0)[0]:
            return "without a word"
        return os.read(self._process.stderr.fileno(), 2000).decode(errors="replace").strip() or "without a word"


def _answer(command: list[str]) -> str:
    """What a command prints. Raises DeviceUnavailable."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceUnavailable(f"meter hwmon: {command[0]}: {error}") from error
    if done.returncode != 0:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise DeviceUnavailable(f"meter hwmon: {shlex.join(command[:-1])}: {said}")
    return done.stdout
