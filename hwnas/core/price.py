"""What one run costs as a compiler, a simulator or a closed law says: `price.json` in the folder of an artifact.

A toolchain that prices what it builds writes it; the runner `simulator` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwnas.core.measurement import Samples
from hwnas.errors import DataError

PRICE = "price.json"
"""The file in an artifact's folder."""
PARTS = ("accelerator", "cpu", "transfer")
"""Where a run spends its time: computing on the accelerator, the rest on the CPU, and handing tensors over."""
MAX_BYTES = 16 * 2**20

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Amount = Annotated[float, Field(ge=0)]


class Layer(BaseModel):
    """One operator as the compiler or simulator saw it: where it runs, its share of the run in the run's unit, and why it
    is not on the accelerator (empty where it is, and for what turns floats into integers and back)."""

    model_config = _STRICT
    name: str
    op: str
    where: Literal["accelerator", "cpu"]
    cost: Amount
    macs: Amount = 0.0
    traffic: dict[str, Amount] = Field(default_factory=dict, description="memory -> bytes, where the tool tells them")
    reason: str = ""


class Price(BaseModel):
    """A run's cost in `unit`, by part; `traffic` is bytes by memory, `tool` names program and version behind it.

    `layers` may be empty; their costs need not add up to the whole, because tools overlap operators.
    """

    model_config = _STRICT
    unit: Literal["cycles", "s"]
    parts: dict[Literal["accelerator", "cpu", "transfer"], Amount]
    macs: Amount
    traffic: dict[str, Amount]
    tool: str = Field(min_length=1)
    crossings: int = Field(default=0, ge=0, description="tensors handed over between CPU and accelerator")
    layers: tuple[Layer, ...] = ()

    @model_validator(mode="after")
    def _costs(self) -> Price:
        if not self.total > 0:
            raise ValueError("a run cannot cost nothing")
        return self

    @property
    def total(self) -> float:
        """Cycles or seconds of one run."""
        return sum(self.parts.values())

    def samples(self, readings: int) -> Samples:
        """So many readings of a run: the price each time, for it does not scatter."""
        values = (self.total,) * readings
        return Samples(
            latency_s=values if self.unit == "s" else (),
            cycles=values if self.unit == "cycles" else None,
            parts={str(part): float(cost) for part, cost in self.parts.items()},
            traffic=dict(self.traffic),
            macs=self.macs,
        )


def total_traffic(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Bytes by memory of several parts together."""
    total: dict[str, float] = {}
    for traffic in parts:
        for memory, moved in traffic.items():
            total[memory] = total.get(memory, 0.0) + moved
    return total


def write_price(price: Price, folder: Path) -> None:
    """Write the price beside the files of an artifact."""
    (folder / PRICE).write_text(json.dumps(price.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


def read_price(folder: Path) -> Price:
    """The price in an artifact's folder. Raises DataError if there is none or it is not one."""
    path = folder / PRICE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"is larger than {MAX_BYTES} bytes", path=path)
        return Price.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    except ValidationError as error:
        raise DataError(f"is not a price ({error.errors()[0]['msg']})", path=path) from error
