"""Accelerators as data: clock, energy model, the way in and out, and the CPU that computes the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hwnas.core.estimate import Bandwidth, Frequency, Joules, Rate, Seconds, Watts

_STRICT = ConfigDict(extra="forbid", frozen=True)
Source = Annotated[str, Field(min_length=3, description="datasheet, public benchmark, calibrated on what, or chosen")]


class EnergyModel(BaseModel):
    """Joules by a documented rule: so many for a multiply-accumulate, for a byte of each memory, and while it runs.

    Energy that follows from it is a model over simulated traffic, and is said to be one wherever it is shown.
    """

    model_config = _STRICT
    per_mac: Joules = Field(ge=0)
    per_byte: dict[str, Joules] = Field(description="memory -> joules a byte that is read or written")
    power: Watts = Field(default=0.0, validate_default=False, description="drawn all the time that a run takes")
    source: Source

    def joules(self, macs: float, traffic: Mapping[str, float], latency_s: float) -> float:
        """Energy of one run (J). Raises KeyError for a memory that the rule does not price: nothing is free."""
        moved = sum(self.per_byte[memory] * n for memory, n in traffic.items())
        return self.per_mac * macs + moved + self.power * latency_s


class Transfer(BaseModel):
    """What it takes to hand a tensor from the CPU to the accelerator or back."""

    model_config = _STRICT
    latency: Seconds = Field(description="for each tensor that crosses, however small")
    bandwidth: Bandwidth
    source: Source

    def seconds(self, crossings: int, moved_bytes: float) -> float:
        """Time of so many crossings that move so many bytes together."""
        return self.latency * crossings + moved_bytes / self.bandwidth


class Companion(BaseModel):
    """The CPU beside an accelerator. What the accelerator does not compute is priced as on it, and built for it by TVM.

    A kernel that stands in the latency table of `device` costs what was counted there, at so many instructions (or
    cycles) a second; any other costs overhead + max(MACs / macs_per_s, bytes / bandwidth).
    """

    model_config = _STRICT
    device: str | None = Field(default=None, description="device whose latency table knows what kernels take")
    per_s: Rate | None = Field(default=None, description="instructions or cycles a second, where the table counts them")
    macs_per_s: Rate
    bandwidth: Bandwidth
    overhead: Seconds
    target: str = Field(description="TVM's target of that CPU, for export")
    source: Source

    def seconds(self, macs: float, moved_bytes: float) -> float:
        """Time of a kernel that no table row knows."""
        return self.overhead + max(macs / self.macs_per_s, moved_bytes / self.bandwidth)


class Accelerator(BaseModel):
    """What an accelerator's YAML says beside the options of its toolchain."""

    model_config = _STRICT
    clock: Frequency = Field(description="turns cycles into seconds")
    source: Source = Field(description="of the clock")
    energy: EnergyModel | None = None
    transfer: Transfer | None = None
    cpu: Companion | None = None
