"""The options of the toolchain: the array that is built, and the family whose resources it is counted in."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast, get_args

from hwnas.core.device import Device
from hwnas.errors import ConfigError, DataError
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.synthesis import Family

OPTION_KEYS = ("array", "family", "threads", "allow_cpu_fallback")
TOOLCHAIN = "fpga"
FAMILIES: tuple[Family, ...] = get_args(Family)


def array_of(device: Device) -> Array:
    """The array of a device. Raises ConfigError for sizes that are unknown or that no array has."""
    given = checked_options(device)["array"]
    try:
        return Array(**given)
    except (DataError, ConfigError, ValueError) as error:
        raise ConfigError(str(error), key=_key("array")) from error


def family_of(device: Device) -> Family:
    """The family of FPGAs that resources are counted for."""
    return cast("Family", checked_options(device)["family"])


def checked_options(device: Device) -> dict[str, Any]:
    """The device's options with defaults. Raises ConfigError for what is unknown or of the wrong type."""
    given = device.options.get(TOOLCHAIN, {})
    for key in given:
        if key not in OPTION_KEYS:
            raise ConfigError("unknown option", key=_key(key), given=key, allowed=OPTION_KEYS)
    if given.get("threads", 1) != 1:
        raise ConfigError("a core computes one job at a time: 1", key=_key("threads"), given=given["threads"])
    fallback = given.get("allow_cpu_fallback", True)
    if not isinstance(fallback, bool):
        raise ConfigError("is true or false", key=_key("allow_cpu_fallback"), given=fallback)
    family, sizes = given.get("family", FAMILIES[0]), given.get("array", {})
    if family not in FAMILIES:
        raise ConfigError("unknown family", key=_key("family"), given=family, allowed=FAMILIES)
    known = {field.name: field.default for field in fields(Array)}
    if not isinstance(sizes, dict):
        raise ConfigError("an array is its sizes by name, such as {rows: 16, columns: 16}", key=_key("array"))
    for name, value in sizes.items():
        if name not in known:
            raise ConfigError("unknown size", key=_key(f"array.{name}"), given=name, allowed=known)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError("a size is a whole number", key=_key(f"array.{name}"), given=value)
    return {"threads": 1, "allow_cpu_fallback": fallback, "family": family, "array": {**known, **sizes}}


def _key(name: str) -> str:
    return f"options.{TOOLCHAIN}.{name}"
