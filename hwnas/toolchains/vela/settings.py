"""How Vela is told about a device: `options: {vela: {...}}` in its YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.device import Device
from hwnas.core.estimate import Bytes
from hwnas.errors import ConfigError
from hwnas.units import show

Configuration = Literal[
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
]  # fmt: skip


class VelaSettings(BaseModel):
    """Options of toolchain `vela`; names of system configurations and memory modes are those of Vela's own vela.ini.

    `sram` is what Vela may fill for speed. Without a limit it cascades operators to save SRAM, and reads weights anew
    for every stripe: 1.5 times the cycles on networks of mbconv-micro.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    accelerator: Configuration
    system_config: str = Field(pattern=r"^[A-Za-z0-9_]{1,64}$")
    memory_mode: str = Field(pattern=r"^[A-Za-z0-9_]{1,64}$")
    sram: Bytes = Field(ge=1024, le=2**32)
    optimise: Literal["Performance", "Size"] = "Performance"
    allow_cpu_fallback: bool = False

    @property
    def family(self) -> Literal["EthosU55", "EthosU65", "EthosU85"]:
        """What Vela's compiler calls the product line."""
        return {"5": "EthosU55", "6": "EthosU65", "8": "EthosU85"}[self.accelerator[7]]  # type: ignore[return-value]

    @property
    def cores(self) -> int:
        """Ethos-U65-512 is two cores of 256 multipliers; every other configuration is one core."""
        return 2 if self.accelerator == "ethos-u65-512" else 1

    @property
    def macs(self) -> int:
        """8-bit multiply-accumulates of one core in a cycle."""
        return int(self.accelerator.rpartition("-")[2]) // self.cores


def settings_of(device: Device) -> VelaSettings:
    """The options of a device. Raises ConfigError for what is missing or unknown, or contradicts its memories."""
    options: dict[str, Any] = dict(device.options.get("vela", {}))
    settings = validate(VelaSettings, options, f"options.vela of {device.name}")
    memory = device.memory("sram")
    if memory is not None and memory.size is not None and memory.size != settings.sram:
        given, there = show(settings.sram, "bytes"), show(memory.size, "bytes")
        raise ConfigError(
            f"options.vela.sram is {given}, and memories has sram of {there}: they are the same memory",
            key=f"options.vela of {device.name}",
        )
    return settings
