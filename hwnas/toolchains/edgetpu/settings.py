"""What the toolchain `edgetpu` is told about a device: `options: {edgetpu: {...}}` in its YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwnas.config import validate
from hwnas.core.accelerator import Source
from hwnas.core.device import Device
from hwnas.core.estimate import Bandwidth, Bytes, Rate, Ratio, Seconds

_STRICT = ConfigDict(extra="forbid", frozen=True)


class LawSettings(BaseModel):
    """The constants of the law in `law.py`; `sources` says of each where it is from."""

    model_config = _STRICT
    peak: Rate = Field(gt=0, description="multiply-accumulates a second with all lanes busy")
    lanes: int = Field(ge=1, le=4096, description="output channels that are computed at once")
    efficiency: Ratio = Field(gt=0, le=1, description="share of the peak that full lanes reach")
    convolution: Seconds = Field(description="of each convolution and dense product, however small")
    weights: Bandwidth = Field(gt=0, description="of parameters from the chip's own memory")
    activations: Bandwidth = Field(gt=0, description="of what convolutions and activations read and write")
    depthwise: Rate = Field(gt=0, description="multiply-accumulates a second of depthwise convolutions")
    pool: Seconds = Field(description="of each pool and mean")
    window: Rate = Field(gt=0, description="elements of windows that pools and means read a second")
    elementwise: Seconds = Field(description="of each operator that reads more than one tensor")
    operands: Bandwidth = Field(gt=0, description="of what such operators read and write")
    activation: Seconds = Field(description="of each operator of one tensor that cannot be fused")
    sram: Bytes = Field(gt=0, description="the chip's own memory, for activations and parameters")
    cache: Bytes = Field(gt=0, description="what parameters may take of it at most")
    streaming: Bandwidth = Field(gt=0, description="of parameters that the cache does not hold, in every run")
    wait_from: Seconds = Field(gt=0, description="a run that would take longer than this takes `wait` more")
    wait: Seconds
    sources: dict[str, Source]

    @model_validator(mode="after")
    def _all_sourced(self) -> LawSettings:
        constants = set(type(self).model_fields) - {"sources"}
        if missing := sorted(constants - self.sources.keys()):
            raise ValueError(f"sources says nothing of {', '.join(missing)}")
        if unknown := sorted(self.sources.keys() - constants):
            raise ValueError(f"sources names {', '.join(unknown)}, which are no constants of the law")
        return self


class EdgeTpuSettings(BaseModel):
    """Options of toolchain `edgetpu`.

    `subgraphs`: what comes after the first operator that the Edge TPU does not compute stays on the CPU (one), or goes
    back to it (several, `edgetpu_compiler -a`, experimental there). `compiler`: whether Google's compiler is asked.
    """

    model_config = _STRICT
    law: LawSettings
    allow_cpu_fallback: bool = True
    subgraphs: Literal["one", "several"] = "one"
    compiler: Literal["if installed", "never", "required"] = "if installed"

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that are choices and no facts about the chip."""
        return self.model_dump(mode="json", exclude={"law"})


def settings_of(device: Device) -> EdgeTpuSettings:
    """The options of a device. Raises ConfigError for what is missing or unknown."""
    options: dict[str, Any] = dict(device.options.get("edgetpu", {}))
    return validate(EdgeTpuSettings, options, f"options.edgetpu of {device.name}")
