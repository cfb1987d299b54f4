"""Energy by a documented rule: so many joules for a MAC and for a byte moved, from a publication that is named.

It looks at the network, not at a board. Its fidelity is `model`: profiling refuses it beside any other, so that none of
its joules can stand in a table of measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.device import Source
from hwnas.core.estimate import Joules
from hwnas.core.interfaces import Loop
from hwnas.core.measurement import EnergyWindow, Fidelity
from hwnas.graph.analysis import analyse

if TYPE_CHECKING:
    from onnx import ModelProto

RAIL = "model"
"""Stands where a measured window names its supply rails."""


class ModelSettings(BaseModel):
    """Settings of the meter `model`: the rule, and where it is published."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    per_mac: Joules = Field(gt=0)
    per_byte: Joules = Field(ge=0, description="for a byte that a fused kernel reads or writes")
    source: Source
    rules: str = Field(default="ort", description="fusion rules that decide which bytes move")


class ModelMeter:
    """Prices a network; there is no device behind it."""

    name = "model"
    fidelity = Fidelity.MODEL

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = validate(ModelSettings, dict(settings), "meter model")
        self._joules_per_run: float | None = None

    def price(self, onnx: ModelProto) -> float:
        """Joules of one run of a network: MACs and bytes moved, each at its price."""
        found = analyse(onnx, self.settings.rules)
        return found.macs * self.settings.per_mac + found.moved_bytes * self.settings.per_byte

    def expect(self, onnx: ModelProto) -> None:
        """Say which network the next recordings are of."""
        self._joules_per_run = self.price(onnx)

    def record(self) -> ModelTrace:
        """A trace of the expected network; without one its windows are None."""
        return ModelTrace(self._joules_per_run)

    def open(self) -> None:
        """Nothing to take hold of."""

    def close(self) -> None:
        """Nothing is held open."""


class ModelTrace:
    """Runs times the price of a run. It has no samples and no idle power, and says so by 0 and by the rail `model`."""

    def __init__(self, joules_per_run: float | None) -> None:
        self._joules_per_run = joules_per_run

    def __enter__(self) -> ModelTrace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass

    def window(self, loop: Loop, idle_s: float, least_samples: int) -> EnergyWindow | None:
        """The price of a loop; None where no network was named."""
        if self._joules_per_run is None:
            return None
        return EnergyWindow(
            gross_j=self._joules_per_run * loop.runs, idle_w=0.0, window_s=loop.ended_s - loop.began_s, runs=loop.runs,
            samples=0, rails=(RAIL,),
        )  # fmt: skip
