"""run.yaml: everything a search needs, each quantity with its unit, each default visible in the saved copy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hwnas import registry, units
from hwnas.accuracy.training import TrainingPlan
from hwnas.config import read_yaml, validate
from hwnas.core.device import Device
from hwnas.core.estimate import METRIC_KIND, Budget, Metric, Ratio, Seconds
from hwnas.errors import ConfigError
from hwnas.graph.precision import Precision

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
PERCENTILE = re.compile(r"^p(\d{1,2})$")


class Use(BaseModel):
    """A registered part by name, with its settings beside it: {use: mbconv-micro, classes: 10}."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class BudgetSettings(BaseModel):
    """Limits with units; `p40` is the 40th percentile of the space as estimated on the device when the run starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    latency: str | float | None = None
    energy: str | float | None = None
    flash: str | float | None = None
    ram: str | float | None = None
    sram: str | float | None = None
    params: str | float | None = None
    macs: str | float | None = None
    instructions: str | float | None = None
    cycles: str | float | None = None
    dsp: str | float | None = None
    bram: str | float | None = None
    lut: str | float | None = None
    confidence: Ratio = Field(default=0.9, gt=0, lt=1)

    METRICS: ClassVar[tuple[Metric, ...]] = Budget.METRICS

    @field_validator(*Budget.METRICS, mode="before")
    @classmethod
    def _quantity(cls, value: Any, info: Any) -> Any:
        if value is not None and not (isinstance(value, str) and PERCENTILE.match(value)):
            try:
                units.parse(value, METRIC_KIND[info.field_name])
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value

    def given(self) -> tuple[Metric, ...]:
        """The metrics that are limited."""
        return tuple(m for m in self.METRICS if getattr(self, m) is not None)

    def percentiles(self) -> dict[Metric, int]:
        """The limits that are percentiles of the space."""
        found: dict[Metric, int] = {}
        for metric in self.METRICS:
            value = getattr(self, metric)
            if isinstance(value, str) and (match := PERCENTILE.match(value)):
                found[metric] = int(match[1])
        return found

    def resolve(self, limits: dict[Metric, float]) -> Budget:
        """The budget, each percentile replaced by its value in SI units."""
        texts = {m: getattr(self, m) for m in self.METRICS if getattr(self, m) is not None and m not in limits}
        fixed = Budget(**texts, confidence=self.confidence)
        return fixed.model_copy(update={str(m): v for m, v in limits.items()})


class ProfileSettings(BaseModel):
    """What has to be in the latency table before the search: it is measured if it is not there."""

    model_config = _STRICT
    workloads: int | None = Field(default=None, ge=1, description="None: every workload of the space")
    networks: int = Field(default=40, ge=0)


class AccuracySettings(BaseModel):
    """How candidates are compared: by training, `queries` of them at most."""

    model_config = _STRICT
    use: Literal["training"] = "training"
    queries: int = Field(default=24, ge=1)
    screen: int = Field(default=1, ge=1, le=16, description="candidates trained for one epoch for each trained fully")
    retest: int = Field(default=0, ge=0, description="candidates trained on a second seed, to know the noise")
    plan: TrainingPlan = TrainingPlan()


class SearchSettings(BaseModel):
    """Which strategy, how many trials, from which seed."""

    model_config = _STRICT
    use: str = "guided"
    trials: int = Field(default=2000, ge=1)
    seed: int = Field(default=0, ge=0)
    device_measurements: int = Field(default=24, ge=0)

    @field_validator("use")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in registry.strategies.names():
            raise ValueError(str(ConfigError("unknown strategy", given=value, allowed=registry.strategies.names())))
        return value


class VerifySettings(BaseModel):
    """How finalists are judged: trained anew on `seeds` seeds, measured by `readings` spaced readings."""

    model_config = _STRICT
    top: int = Field(default=3, ge=1)
    seeds: int = Field(default=3, ge=1)
    readings: int = Field(default=9, ge=5)
    spacing: Seconds = Field(default=0.3, validate_default=False, description="between two readings of one network")
    tolerance: Ratio = 0.1
    rounds: int = Field(default=3, ge=1, description="how often to go on searching when no finalist meets the budget")


class Objective(BaseModel):
    """One of {maximize: accuracy} and {minimize: METRIC}."""

    model_config = _STRICT
    maximize: Literal["accuracy"] | None = None
    minimize: Metric | None = None

    @model_validator(mode="after")
    def _one(self) -> Objective:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("an objective is either {maximize: accuracy} or {minimize: latency}")
        return self


class RunSettings(BaseModel):
    """A run: device, space, data, budget, and how to search, verify and export."""

    model_config = _STRICT
    schema_: Literal[1] = Field(alias="schema")
    device: str
    toolchain: str = Field(default="auto", description="auto: the fastest of those the device allows")
    space: Use
    precision: Precision = "fp32"
    data: Use
    profile: ProfileSettings = ProfileSettings()
    budget: BudgetSettings
    accuracy: AccuracySettings = AccuracySettings()
    objectives: tuple[Objective, ...] | None = Field(
        default=None, description="None: accuracy up, and down what a run is measured in on the device"
    )
    search: SearchSettings = SearchSettings()
    verify: VerifySettings = VerifySettings()
    allow_cpu_fallback: bool = Field(
        default=False, description="what an accelerator does not compute runs on the CPU beside it"
    )
    export: tuple[Literal["onnx", "tvm", "c", "vela", "edgetpu", "fpga"], ...] | None = Field(
        default=None, description="None: what the device's toolchains make"
    )

    def minimised(self, device: Device) -> tuple[Metric, ...]:
        """The metrics that the front trades against accuracy."""
        if self.objectives is None:
            return (device.metric,)
        return tuple(o.minimize for o in self.objectives if o.minimize is not None)


def load_run(path: Path) -> RunSettings:
    """Read run.yaml. Raises ConfigError that names key and remedy."""
    return validate(RunSettings, read_yaml(path), path)
