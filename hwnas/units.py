"""Quantities at the boundary: text with a unit in, SI numbers out, and numbers shown to people with a unit.

Storage is SI and every name carries its unit (`_s _j _bytes _hz`); only this module knows other units.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, Literal

from hwnas.errors import ConfigError

Kind = Literal["time", "energy", "bytes", "count", "ratio", "frequency", "power", "voltage", "bandwidth", "rate"]

_BASE: dict[Kind, str] = {
    "time": "second",
    "energy": "joule",
    "bytes": "byte",
    "frequency": "hertz",
    "power": "watt",
    "voltage": "volt",
    "bandwidth": "byte / second",
}
_EXAMPLE: dict[Kind, str] = {
    "time": "15 ms",
    "energy": "40 mJ",
    "bytes": "256 KiB",
    "count": "6 M",
    "ratio": "10 %",
    "frequency": "80 MHz",
    "power": "3 W",
    "voltage": "3.3 V",
    "bandwidth": "4 GiB/s",
    "rate": "2 G/s",
}
_SCALE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SYMBOL: dict[Kind, str] = {
    "time": "s", "energy": "J", "frequency": "Hz", "power": "W", "voltage": "V", "bandwidth": "B/s", "rate": "/s",
    "count": "",
}  # fmt: skip
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
_NUMBER = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # 0.2 s to import: only when a quantity is read

    return pint.UnitRegistry(cache_folder=None)


def parse(text: object, kind: Kind) -> float:
    """Read a quantity such as '15 ms', '256 KiB', '6 M' or '10 %' into SI units.

    A bare number is an error for every kind but `count` and `ratio`, because its unit would be a guess.
    Raises ConfigError with an example of the right form.
    """
    example = _EXAMPLE[kind]
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ConfigError(f"{text!r} is not a quantity; write it like {example!r}", given=text)
    if isinstance(text, (int, float)):
        if kind not in ("count", "ratio"):
            raise ConfigError(f"{text!r} has no unit; write it like {example!r}", given=text)
        return _checked(float(text), text, kind)
    match = _NUMBER.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a quantity; write it like {example!r}", given=text)
    number, unit = float(match[1]), match[2]
    if kind in ("count", "rate"):
        unit = unit.removesuffix("/s") if kind == "rate" else unit
        if unit not in _SCALE or (kind == "rate" and not text.rstrip().endswith("/s")):
            raise ConfigError(f"{text!r}: write it like {example!r}", given=text)
        return _checked(number * _SCALE[unit], text, kind)
    if kind == "ratio":
        if unit not in ("", "%"):
            raise ConfigError(f"{text!r}: write it like {example!r}", given=text)
        return _checked(number / 100 if unit == "%" else number, text, kind)
    if not unit:
        raise ConfigError(f"{text!r} has no unit; write it like {example!r}", given=text)
    import pint

    try:
        value = float((number * _registry().parse_units(unit)).to(_BASE[kind]).magnitude)
    except (pint.errors.PintError, AttributeError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{text!r} is not a quantity of {kind}; write it like {example!r}", given=text) from error
    return _checked(value, text, kind)


def _checked(value: float, text: object, kind: Kind) -> float:
    if not math.isfinite(value) or value < 0:
        raise ConfigError(f"{text!r} must be finite and not negative; write it like {_EXAMPLE[kind]!r}", given=text)
    return value


def show(value: float | None, kind: Kind) -> str:
    """A number for people, three significant digits and a unit; None shows as 'not measured'."""
    if value is None:
        return "not measured"
    if kind == "ratio":
        return f"{100 * value:.3g} %"
    if kind == "bytes":
        for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if abs(value) >= size:
                return f"{value / size:.4g} {unit}"
        return f"{value:.0f} B"
    steps = _STEPS[:4] if kind == "count" else _STEPS
    symbol = _SYMBOL[kind]
    if value == 0:
        return f"0 {symbol}".strip()
    factor, prefix = next((s for s in steps if abs(value) >= s[0]), steps[-1])
    if kind == "time" and factor > 1:
        factor, prefix = 1.0, ""
    return f"{value / factor:.3g} {prefix}{symbol}".strip()
