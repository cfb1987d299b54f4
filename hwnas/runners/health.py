"""The state of a Linux board from the texts of its files: clock, governor, temperature, and what spoils a measurement.

Raspberry Pi (throttling flags of the firmware), Jetson (over-current counters, trips, power mode) and x86 (throttle
counts) are read alike, from whatever is there. A clock that somebody fixed on purpose is no complaint; one that heat or
the supply holds down is. Nothing is changed here, and no unit is guessed: a text that is not a number counts as absent.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hwnas.core.interfaces import Health

Read = Callable[[str], str | None]
"""Gives the text of a file (a name that begins with /) or the output of a command; None where there is none."""

VCGENCMD = "vcgencmd get_throttled"
FIRMWARE = "/sys/devices/platform/soc/soc:firmware/get_throttled"
NVPMODEL = "/var/lib/nvpmodel/status"
CPU, THERMAL, HWMON = "/sys/devices/system/cpu", "/sys/class/thermal", "/sys/class/hwmon"
MOST = 64
"""Cores, zones and monitors are counted up to this many, and cores may have gaps where some are switched off."""
PI_FLAGS = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
"""Bits 0 to 3: now; the same from bit 16 on: since boot (Raspberry Pi documentation, `vcgencmd get_throttled`)."""
SINCE_BOOT = 16
PASSIVE_TRIPS = ("passive", "hot")
HEAT_CAPS = ("cpufreq", "devfreq", "processor", "cpu", "gpu")
"""Cooling devices of these kinds cool by slowing down; fans do not."""
SANE_C = (-40.0, 150.0)
COMMAND_S = 5.0

LIST_COMMAND = (
    f"for f in {CPU}/cpu*/cpufreq/scaling_cur_freq {CPU}/cpu*/cpufreq/scaling_governor "
    f"{CPU}/cpu*/thermal_throttle/*_throttle_count {THERMAL}/thermal_zone*/type {THERMAL}/thermal_zone*/temp "
    f"{THERMAL}/thermal_zone*/trip_point_*_type {THERMAL}/thermal_zone*/trip_point_*_temp "
    f"{THERMAL}/cooling_device*/type {THERMAL}/cooling_device*/*_state {HWMON}/hwmon*/oc*_event_cnt {FIRMWARE} {NVPMODEL}; "
    'do [ -r "$f" ] && printf "== %s\\n" "$f" && cat "$f"; done 2>/dev/null; '
    f'command -v vcgencmd >/dev/null && echo "== {VCGENCMD}" && {VCGENCMD}; true'
)
"""A POSIX shell command that prints all that `read_health` looks at, for a board behind ssh; `parse_listing` reads it."""


def parse_listing(output: str) -> Read:
    """What LIST_COMMAND printed on a board, as a reader for `read_health`."""
    texts: dict[str, str] = {}
    name: str | None = None
    for line in output.splitlines():
        if line.startswith("== "):
            name = line[3:].strip()
            texts[name] = ""
        elif name is not None:
            texts[name] += line + "\n"
    return lambda wanted: texts[wanted].strip() if wanted in texts else None


def read_here(root: Path = Path("/")) -> Read:
    """A reader of this computer's files below `root`; commands are run only where that is the real one."""

    def read(name: str) -> str | None:
        if name.startswith("/"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                return (root / name[1:]).read_text().strip()
            return None
        command = name.split()
        if root != Path("/") or shutil.which(command[0]) is None:
            return None
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    return read


def read_health(read: Read) -> Health:
    """The health of a board at this moment. Counts that only grow are judged by `HealthReader`."""
    zones = list(_zones(read))
    return Health(
        clock_hz=_clock_hz(read),
        governor=_governor(read),
        temperature_c=max((c for _, c in zones), default=None),
        complaints=(*_pi_now(read), *_hot(read), *_capped(read)),
    )


class HealthReader:
    """Reads health again and again, and complains of what happened since it was read last.

    What was not there at the first time is not looked for again: most boards have few of these files.
    """

    def __init__(self, read: Read) -> None:
        absent: set[str] = set()

        def note(name: str) -> str | None:
            if (text := read(name)) is None:
                absent.add(name)
            return text

        self._read: Read = note
        self.now()
        self._counts: Mapping[str, int] = counts(note)
        self._read = lambda name: None if name in absent else read(name)

    def now(self) -> Health:
        """The health at this moment; what happened before is left for `health` to tell."""
        return read_health(self._read)

    def health(self) -> Health:
        """The health now. `complaints` also name every throttling event since the last call, however short it was."""
        found, now, before = self.now(), counts(self._read), self._counts
        self._counts = now
        grown = {what: n - before.get(what, n) for what, n in now.items()}
        events = tuple(f"{what} since the last look" for what, n in grown.items() if n > 0)
        return Health(found.clock_hz, found.governor, found.temperature_c, (*found.complaints, *events))


def counts(read: Read) -> dict[str, int]:
    """What was counted since boot, by what it means: throttling of x86 cores, over-current of a Jetson, Pi flags."""
    found: dict[str, int] = {}
    for n in range(MOST):
        for kind in ("core", "package"):
            count = _integer(read(f"{CPU}/cpu{n}/thermal_throttle/{kind}_throttle_count"))
            if count is not None:
                what = f"the {kind} was throttled by heat"
                found[what] = found.get(what, 0) + count
        for alarm, meaning in ((1, "under-voltage"), (2, "average over-current"), (3, "instantaneous over-current")):
            count = _integer(read(f"{HWMON}/hwmon{n}/oc{alarm}_event_cnt"))
            if count is not None:
                what = f"clocks were throttled by {meaning} (oc{alarm})"
                found[what] = found.get(what, 0) + count
    flags = _pi_flags(read)
    if flags is not None:
        found |= {f"{what} occurred": flags >> (SINCE_BOOT + bit) & 1 for bit, what in enumerate(PI_FLAGS)}
    return found


def _clock_hz(read: Read) -> float | None:
    """The clock of the fastest core."""
    khz = [f for n in range(MOST) if (f := _integer(read(f"{CPU}/cpu{n}/cpufreq/scaling_cur_freq"))) is not None]
    if khz:
        return max(khz) * 1e3
    for line in (read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("cpu MHz"):
            with contextlib.suppress(ValueError):
                return float(line.partition(":")[2]) * 1e6
    return None


def _governor(read: Read) -> str | None:
    """The governors of the cores, and a Jetson's power mode, because that decides their clocks."""
    names = [g for n in range(MOST) if (g := read(f"{CPU}/cpu{n}/cpufreq/scaling_governor"))]
    mode = (read(NVPMODEL) or "").removeprefix("pmode:").strip()
    parts = [*dict.fromkeys(names), *([f"power mode {mode}"] if mode else [])]
    return ", ".join(parts) or None


def _zones(read: Read) -> Iterator[tuple[int, float]]:
    """Number and temperature (°C) of the thermal zones that tell one."""
    for n in range(MOST):
        milli = _integer(read(f"{THERMAL}/thermal_zone{n}/temp"))
        if milli is not None and SANE_C[0] <= milli / 1e3 <= SANE_C[1]:  # a zone that is off shows nonsense
            yield n, milli / 1e3


def _hot(read: Read) -> Iterator[str]:
    for n, temperature_c in _zones(read):
        zone = f"{THERMAL}/thermal_zone{n}"
        for trip in range(MOST):
            kind = read(f"{zone}/trip_point_{trip}_type")
            if kind is None:
                break
            milli = _integer(read(f"{zone}/trip_point_{trip}_temp"))
            if kind in PASSIVE_TRIPS and milli is not None and milli > 0 and temperature_c * 1e3 >= milli:
                name = read(f"{zone}/type") or f"thermal zone {n}"
                yield f"{name} is at {temperature_c:.1f} °C, over its {kind} trip of {milli / 1e3:.1f} °C"
                break


def _capped(read: Read) -> Iterator[str]:
    for n in range(MOST):
        device = f"{THERMAL}/cooling_device{n}"
        kind, state = read(f"{device}/type"), _integer(read(f"{device}/cur_state"))
        caps = kind is not None and "fan" not in kind.lower() and any(word in kind.lower() for word in HEAT_CAPS)
        if caps and state is not None and state > 0:  # -1: powerclamp that is off
            yield f"clock held down by heat ({kind} at state {state} of {read(f'{device}/max_state') or '?'})"


def _pi_now(read: Read) -> Iterator[str]:
    flags = _pi_flags(read) or 0
    for bit, what in enumerate(PI_FLAGS):
        if flags >> bit & 1:
            yield what


def _pi_flags(read: Read) -> int | None:
    """The firmware's flags: a file with bare hexadecimal digits, or the command's `throttled=0x50005`."""
    text = read(FIRMWARE)
    if text is None:
        text = (read(VCGENCMD) or "").partition("=")[2] or None
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return int(text, 16)
    return None


def _integer(text: str | None) -> int | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return int(text)
    return None
