"""Estimates and budgets. An estimate carries its interval and source; a budget is checked at the high end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from hwnas import units
from hwnas.core.measurement import Fidelity
from hwnas.errors import ConfigError

Source = Literal["table", "predictor", "roofline", "exact", "measured"]
Metric = Literal[
    "latency", "energy", "flash", "ram", "sram", "params", "macs", "instructions", "cycles", "dsp", "bram", "lut"
]

METRIC_KIND: dict[str, units.Kind] = {
    "latency": "time",
    "energy": "energy",
    "flash": "bytes",
    "ram": "bytes",
    "sram": "bytes",
    "params": "count",
    "macs": "count",
    "instructions": "count",
    "cycles": "count",
    "dsp": "count",
    "bram": "count",
    "lut": "count",
}
"""What kind of quantity each budgeted metric is."""


class Estimate:
    """A value in SI units with an interval. There is no `+`: summing workloads into a network is a named function.

    `low` and `high` are one-sided bounds at the predictor's stated confidence; `source` says which knowledge gave it.
    """

    __slots__ = ("fidelity", "high", "low", "mean", "source")

    def __init__(self, mean: float, low: float, high: float, source: Source, fidelity: Fidelity) -> None:
        if not low <= mean <= high:
            raise ValueError(f"an estimate needs low <= mean <= high, got {low} {mean} {high}")
        self.mean, self.low, self.high, self.source, self.fidelity = mean, low, high, source, fidelity

    def __repr__(self) -> str:
        return f"Estimate({self.mean:.4g} [{self.low:.4g}, {self.high:.4g}], {self.source}, {self.fidelity})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Estimate) and all(getattr(self, s) == getattr(other, s) for s in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.mean, self.low, self.high, self.source, self.fidelity))


def reader(kind: units.Kind) -> BeforeValidator:
    """A pydantic validator that reads a quantity of that kind from text with a unit into SI."""

    def read(value: object) -> object:
        try:
            return units.parse(value, kind)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(read)


def writer(unit: str) -> PlainSerializer:
    """A pydantic serializer that writes SI numbers with their unit, so that what was saved can be read again."""
    return PlainSerializer(lambda value: None if value is None else f"{value!r} {unit}", when_used="json")


Seconds = Annotated[float, reader("time"), writer("s")]
Joules = Annotated[float, reader("energy"), writer("J")]
Bytes = Annotated[float, reader("bytes"), writer("B")]
Count = Annotated[float, reader("count")]
Ratio = Annotated[float, reader("ratio")]
Rate = Annotated[float, reader("rate"), writer("/s")]
Frequency = Annotated[float, reader("frequency"), writer("Hz")]
Bandwidth = Annotated[float, reader("bandwidth"), writer("B/s")]
Volts = Annotated[float, reader("voltage"), writer("V")]
Watts = Annotated[float, reader("power"), writer("W")]


class Budget(BaseModel):
    """Upper limits, each None where there is none. `confidence` is the side of the interval they are checked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    METRICS: ClassVar[tuple[Metric, ...]] = (
        "latency", "energy", "flash", "ram", "sram", "params", "macs", "instructions", "cycles", "dsp", "bram", "lut",
    )  # fmt: skip

    latency: Seconds | None = None
    energy: Joules | None = None
    flash: Bytes | None = None
    ram: Bytes | None = None
    sram: Bytes | None = None
    params: Count | None = None
    macs: Count | None = None
    instructions: Count | None = None
    cycles: Count | None = None
    dsp: Count | None = None
    bram: Count | None = None
    lut: Count | None = None
    confidence: Ratio = Field(default=0.9, gt=0, lt=1)

    def limits(self) -> dict[Metric, float]:
        """The limits that are set, in SI units."""
        return {m: v for m in self.METRICS if (v := getattr(self, m)) is not None}

    def violations(self, values: Mapping[str, float | None]) -> dict[str, float]:
        """Relative excess of each limited metric: (value - limit) / limit, so feasible means every one <= 0.

        `values` are SI numbers (an estimate's high end, or a measurement); a limited metric that is absent or None
        counts as infinitely over, because what was not measured is not known to fit.
        """
        over: dict[str, float] = {}
        for metric, limit in self.limits().items():
            value = values.get(metric)
            over[metric] = float("inf") if value is None else (value - limit) / limit if limit else float(value > 0)
        return over

    def __str__(self) -> str:
        return ", ".join(f"{m} <= {units.show(v, METRIC_KIND[m])}" for m, v in self.limits().items()) or "no limit"
