"""The lab: which boards are plugged in where. Kept out of `devices/`, because it is true of one desk only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwnas.core.device import Name
from hwnas.core.estimate import Seconds

_STRICT = ConfigDict(extra="forbid", frozen=True)
Command = Annotated[tuple[str, ...], Field(min_length=1, description="an argv; {elf} {bin} {serial} are filled in")]
LOOPBACK = "127.0.0.1"


class SerialBoard(BaseModel):
    """A board on a serial line: where it is, and the commands that flash, reset and power-cycle it."""

    model_config = _STRICT
    name: Name
    device: Name
    serial: str = Field(min_length=1, description="/dev/serial/by-id/..., usb:SERIALNUMBER, or socket://host:port")
    baud: int | None = Field(default=None, ge=1200, le=12_000_000, description="None: the device's")
    flash: Command | None = Field(default=None, description="such as [pyocd, flash, -t, stm32f446re, '{elf}']")
    reset: Command | None = Field(default=None, description="None: by the firmware, then by the modem lines")
    power: Command | None = Field(default=None, description="switches the board off and on again")
    flash_timeout: Seconds = Field(default=120.0, validate_default=False)
    meter: Name | None = None


class RpcBoards(BaseModel):
    """A TVM tracker with boards of one device behind it; any address but loopback is written here, or not used."""

    model_config = _STRICT
    device: Name
    host: str = LOOPBACK
    port: int = Field(default=9190, ge=1, le=65535)
    key: Name | None = Field(default=None, description="None: the device's")
    boards: int = Field(default=1, ge=1, le=64, description="how many are registered under the key")
    ssh: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:-]*$", description="user@host, for clock and temperature"
    )
    lease: Seconds = Field(default=600.0, validate_default=False, description="a session that lasts longer is ended")
    meter: Name | None = None

    def place(self, key: str) -> str:
        """What a board is called that registers here as `key`, unless the lab names another key."""
        return f"{self.key or key}@{self.host}:{self.port}"

    @model_validator(mode="after")
    def _one_board(self) -> RpcBoards:
        if self.boards > 1 and (self.meter or self.ssh):
            raise ValueError("a meter, or ssh, belongs to one board: give each board a key, and an entry, of its own")
        return self


class LabMeter(BaseModel):
    """An energy meter by registered name, with its settings, and whether its trigger input is wired to the board."""

    model_config = _STRICT
    name: Name
    use: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Lab(BaseModel):
    """`~/.config/hwnas/lab.yaml`, or the file that HWNAS_LAB names."""

    model_config = _STRICT
    schema_: Literal[1] = Field(default=1, alias="schema")
    boards: tuple[SerialBoard, ...] = ()
    rpc: tuple[RpcBoards, ...] = ()
    meters: tuple[LabMeter, ...] = ()
    emulated: dict[Name, Annotated[int, Field(ge=1, le=16)]] = Field(
        default_factory=dict, description="device -> how many emulated boards run side by side; 1 unless said"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Lab:
        for what, names in (("board", [b.name for b in self.boards]), ("meter", [m.name for m in self.meters])):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what} {name!r} stands twice")
        known = {m.name for m in self.meters}
        for meter in (*(b.meter for b in self.boards), *(r.meter for r in self.rpc)):
            if meter is not None and meter not in known:
                raise ValueError(f"no meter {meter!r} (meters: {', '.join(sorted(known)) or 'none'})")
        return self

    def of(self, device: str) -> tuple[SerialBoard, ...]:
        """The serial boards of a device."""
        return tuple(b for b in self.boards if b.device == device)

    def rpc_of(self, device: str) -> tuple[RpcBoards, ...]:
        """The trackers that have a device."""
        return tuple(r for r in self.rpc if r.device == device)
