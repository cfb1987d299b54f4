"""Settings of the configurable mbconv space: every bound is a list of choices that YAML can replace.

Says what may be chosen and checks that it is sane; it knows nothing of genotypes, torch or ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Activation = Literal["relu6", "hardswish"]
T = TypeVar("T")


def _distinct(choices: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(choices)) != len(choices):
        raise ValueError(f"choices repeat: {', '.join(map(str, choices))}")
    return choices


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"a kernel is odd, got {kernel}")
    return kernel


Choices = Annotated[tuple[T, ...], Field(min_length=1, max_length=64), AfterValidator(_distinct)]
Width = Annotated[int, Field(strict=True, ge=1, le=4096)]
Kernel = Annotated[int, Field(strict=True, ge=1, le=15), AfterValidator(_odd)]
Stride = Annotated[int, Field(strict=True, ge=1, le=8)]
Extent = Annotated[int, Field(strict=True, ge=1, le=4096)]
Flag = Annotated[bool, Field(strict=True)]

_STRICT = ConfigDict(extra="forbid", frozen=True)


class StemSettings(BaseModel):
    """Choices of the first convolution."""

    model_config = _STRICT
    widths: Choices[Width] = (8, 16)
    kernels: Choices[Kernel] = (3, 5)
    strides: Choices[Stride] = (2, 4)
    activations: Choices[Activation] = ("relu6",)


class StageSettings(BaseModel):
    """Choices of one stage: width, depth, stride and activation for all its blocks, the rest for each block.

    A block with expansion 1 is depthwise-separable, with a larger one an inverted bottleneck (Sandler et al. 2018).
    """

    model_config = _STRICT
    widths: Choices[Width]
    depths: Choices[Annotated[int, Field(strict=True, ge=1, le=16)]] = (1, 2, 3)
    strides: Choices[Stride] = (2,)
    activations: Choices[Activation] = ("relu6",)
    kernels: Choices[Kernel] = (3, 5)
    expansions: Choices[Annotated[int, Field(strict=True, ge=1, le=16)]] = (1, 2, 4)
    squeezes: Choices[Flag] = (False, True)
    residuals: Choices[Flag] = (True, False)


class HeadSettings(BaseModel):
    """Choices of the 1x1 convolution before the classifier; width 0 is none."""

    model_config = _STRICT
    widths: Choices[Annotated[int, Field(strict=True, ge=0, le=8192)]] = (0,)
    activations: Choices[Activation] = ("relu6",)


def _as_pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


MICRO_STAGES = (
    StageSettings(widths=(8, 16), strides=(1,), expansions=(1, 2)),
    StageSettings(widths=(16, 24, 32)),
    StageSettings(widths=(32, 48, 64)),
)


class MbconvSettings(BaseModel):
    """A space of stem, stages and head; the defaults are those of the preset mbconv-micro.

    `resolution` is one number for a square input, or height and width; height 1 makes the network one-dimensional:
    kernels and strides then act on the width alone.
    """

    model_config = _STRICT
    resolution: Annotated[tuple[Extent, Extent], BeforeValidator(_as_pair)] = (28, 28)
    channels: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    classes: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 10
    stem: StemSettings = StemSettings()
    stages: Annotated[tuple[StageSettings, ...], Field(min_length=1, max_length=12)] = MICRO_STAGES
    head: HeadSettings = HeadSettings(widths=(0, 128))
    squeeze_ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    squeeze_grid: Annotated[int, Field(strict=True, ge=1, le=256)] = 8


MOBILE: Mapping[str, Any] = {
    "stem": {"widths": (16, 24), "kernels": (3,), "strides": (2,), "activations": ("hardswish",)},
    "stages": (
        {"widths": (16, 24), "depths": (1, 2), "strides": (1,), "expansions": (1, 2), "squeezes": (False,)},
        {"widths": (24, 32), "depths": (1, 2, 3), "expansions": (3, 4, 6), "squeezes": (False,)},
        {"widths": (40, 56), "depths": (2, 3, 4), "expansions": (3, 4, 6)},
        {"widths": (80, 96), "depths": (2, 3, 4), "expansions": (3, 4, 6), "activations": ("hardswish",)},
        {
            "widths": (112, 136),
            "depths": (1, 2, 3),
            "strides": (1,),
            "expansions": (3, 4, 6),
            "activations": ("hardswish",),
        },
        {"widths": (160, 192), "depths": (1, 2, 3), "expansions": (3, 4, 6), "activations": ("hardswish",)},
    ),
    "head": {"widths": (576, 960), "activations": ("hardswish",)},
}
"""Choices around MobileNetV3 (Howard et al. 2019) for 224 x 224 images."""
