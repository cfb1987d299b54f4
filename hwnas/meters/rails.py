"""Supply rails as Linux's hwmon shows them: which there are, what they are called, and which may be summed.

It works on texts by file name, so that the monitors of this computer and of one behind ssh are the same to it.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from hwnas.errors import ConfigError

CHIPS = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina260", "ina3221")
TOTALS = ("VDD_IN", "POM_5V_IN")
"""Labels of rails that feed a whole Jetson module, so that they contain its other rails."""
CHANNELS = (1, 2, 3)
"""An INA3221 also shows sums (curr4, in7) and shunt voltages (in4 to in6), which are no rails."""
UNKNOWN_INTERVAL_S = 0.1
"""Where a driver does not tell its update interval: longer than any of these chips takes by default."""
FILES = ("name", "update_interval", *(f"{kind}{c}_{what}" for c in CHANNELS for kind, what in (
    ("in", "label"), ("in", "enable"), ("in", "input"), ("curr", "input"), ("power", "label"), ("power", "input"),
)))  # fmt: skip
"""The files of a monitor that matter here."""
_MONITOR = re.compile(r"(.*/class/hwmon/hwmon(\d+))/name")


@dataclass(frozen=True, slots=True)
class Rail:
    """One rail: its power (µW) in one file, or its voltage (mV) and current (mA) in two, and how often they change."""

    name: str
    files: tuple[str, ...]
    interval_s: float

    def power_w(self, texts: Mapping[str, str]) -> float:
        """The power (W) that the texts of its files say. Raises ValueError."""
        return prod(int(texts[file]) for file in self.files) * 1e-6  # µW, or mV x mA


def texts_here(root: Path) -> dict[str, str]:
    """The texts of this computer's monitors below `root` by file name."""
    found: dict[str, str] = {}
    for folder in (root / "class" / "hwmon").glob("hwmon*"):
        for name in FILES:
            with contextlib.suppress(OSError):
                found[str(folder / name)] = (folder / name).read_text().strip()
    return found


def listing_script(root: Path) -> str:
    """A POSIX shell script that prints the same texts, for `texts_in`."""
    names = " ".join(f"{shlex.quote(str(root))}/class/hwmon/hwmon*/{name}" for name in FILES)
    return f'for f in {names}; do [ -r "$f" ] && echo "== $f" && cat "$f"; done 2>/dev/null; true'


def texts_in(listing: str) -> dict[str, str]:
    """The texts that a listing script printed, by file name."""
    found: dict[str, str] = {}
    for part in re.split(r"^== ", listing, flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("\n")
        found[name.strip()] = text.strip()
    return found


def find_rails(texts: Mapping[str, str], chip: str | None = None) -> dict[str, Rail]:
    """The rails of all monitors by name: the label, or the chip and its channel where there is none.

    Channels that are switched off or not connected (`NC`) are left out.
    """
    monitors = sorted((int(m[2]), m[1]) for file in texts if (m := _MONITOR.fullmatch(file)))
    found: dict[str, Rail] = {}
    for number, folder in monitors:
        driver = texts[f"{folder}/name"]
        if driver != chip if chip else driver not in CHIPS:
            continue
        interval_s = UNKNOWN_INTERVAL_S
        with contextlib.suppress(ValueError, KeyError):
            interval_s = int(texts[f"{folder}/update_interval"]) * 1e-3
        for channel in CHANNELS:
            label = texts.get(f"{folder}/in{channel}_label") or texts.get(f"{folder}/power{channel}_label")
            files = _files(texts, folder, channel)
            if not files or label == "NC" or texts.get(f"{folder}/in{channel}_enable") == "0":
                continue
            name = label or f"{driver}.{channel}"
            name = f"{name}@hwmon{number}" if name in found else name
            found[name] = Rail(name, files, interval_s)
    return found


def choose_rails(rails: Mapping[str, Rail], wanted: tuple[str, ...] | None) -> tuple[Rail, ...]:
    """The rails to sum. Raises ConfigError for an unknown one, one twice, a total beside what it contains, or no choice."""
    key, names = "settings.rails", tuple(rails)
    if wanted is None:
        if len(rails) == 1:
            return tuple(rails.values())
        for total in TOTALS:
            if total in rails:
                return (rails[total],)
        raise ConfigError(
            f"none of the rails {', '.join(names)} is known to be the total: name those to sum, each a supply of its own",
            key=key,
        )
    for name in wanted:
        if name not in rails:
            raise ConfigError(f"no rail {name!r}", key=key, given=name, allowed=names)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError("name each rail once, and at least one", key=key)
    for total in TOTALS:
        if total in wanted and len(wanted) > 1:
            others = ", ".join(n for n in wanted if n != total)
            raise ConfigError(f"{total} contains {others}: summed, their energy would count twice", key=key)
    return tuple(rails[name] for name in wanted)


def _files(texts: Mapping[str, str], folder: str, channel: int) -> tuple[str, ...]:
    power = f"{folder}/power{channel}_input"
    pair = (f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input")
    if power in texts:
        return (power,)
    return pair if all(file in texts for file in pair) else ()
