"""How ZigZag is told about a device: `options: {zigzag: {...}}` in its YAML."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.device import Device
from hwnas.core.estimate import Seconds

NAME = r"^[a-z0-9_]{1,64}$"


class ZigzagSettings(BaseModel):
    """Options of toolchain `zigzag`; names of hardware and mappings are those of the files that ZigZag ships.

    ZigZag tries every order of a kernel's loops for each of several ways to spread them over the array, and keeps the
    fastest: `loops` and `mappings` are how hard it tries, and the time it takes grows with the factorial of the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    hardware: str = Field(pattern=NAME, description="ZigZag's inputs/hardware")
    mapping: str | None = Field(
        default=None, pattern=NAME, description="ZigZag's inputs/mapping; None: ZigZag seeks the best for each kernel"
    )
    sum_bits: int = Field(ge=8, le=64, description="width of sums that are not complete")
    loops: int = Field(
        default=4, ge=1, le=8, description="at most so many are ordered, unless there are more dimensions"
    )
    mappings: int = Field(
        default=3, ge=1, le=16, description="ways to spread loops that are tried, where none is given"
    )
    deadline: Seconds = Field(
        default=240.0, validate_default=False, gt=0, le=280, description="of one build; what was priced is kept"
    )
    allow_cpu_fallback: bool = True


def settings_of(device: Device) -> ZigzagSettings:
    """The options of a device. Raises ConfigError for what is missing or unknown."""
    options: dict[str, Any] = dict(device.options.get("zigzag", {}))
    return validate(ZigzagSettings, options, f"options.zigzag of {device.name}")
