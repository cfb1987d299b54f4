"""Images: many compiled networks linked with the firmware into one, so that a board is flashed once for all of them.

What an artifact is on disk is read here and checked; an artifact that was built anew at the same path is another one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwnas.core.artifact import DESCRIPTION, LAYOUT, OBJECT
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.digest import digest_bytes
from hwnas.errors import BuildError, DeviceError, DeviceUnavailable, NotMeasurable
from hwnas.firmware.image import COMPILER, Image, link_image
from hwnas.runners.arrays import stored_shape

MOST_NETWORKS = 256
FIRMWARE_FLASH_BYTES = 24 * 1024
FIRMWARE_RAM_BYTES = 6 * 1024
"""Rough sizes of the firmware itself: they only decide how many networks are tried together; the linker has the say."""
KEPT = 2
RESIDENTS = 4

_STRICT = ConfigDict(extra="forbid", frozen=True)
Size = Annotated[int, Field(ge=0, lt=2**32)]


class TensorLayout(BaseModel):
    """One input or output of a network, in its arena."""

    model_config = _STRICT
    name: str
    dtype: Literal["float32", "int8", "uint8", "int32", "int64"]
    shape: tuple[Size, ...] = Field(max_length=6)
    layout: Literal["plain", "NCHW", "NHWC"] = "plain"
    offset: Size
    bytes: Size

    @model_validator(mode="after")
    def _four_axes(self) -> Self:
        if self.layout != "plain" and len(self.shape) != 4:
            raise ValueError(f"a tensor of layout {self.layout} has 4 axes, not {len(self.shape)}")
        return self

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape as it lies in memory."""
        return stored_shape(self.shape, self.layout)


class Layout(BaseModel):
    """What `network.json` says of a compiled network."""

    model_config = _STRICT
    symbol: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    arena_bytes: Size
    workspace_bytes: Size
    inputs: tuple[TensorLayout, ...]
    outputs: tuple[TensorLayout, ...]
    kernels: tuple[str, ...]
    code: tuple[str, ...] = ()
    layout_transforms: Size = 0


@dataclass(frozen=True, slots=True)
class BuiltNetwork:
    """A compiled network on disk. Its content is what it is known by: the same network built twice is one."""

    folder: Path = field(compare=False)
    layout: Layout = field(compare=False)
    flash_bytes: int = field(compare=False)
    digest: str

    @property
    def object(self) -> Path:
        return self.folder / OBJECT


@dataclass(frozen=True, slots=True)
class LinkedImage:
    """An image and the networks in it, in the order of their numbers."""

    image: Image
    networks: tuple[BuiltNetwork, ...]
    folder: Path


def read_network(artifact: Artifact) -> BuiltNetwork:
    """The compiled network of an artifact. Raises DeviceError, NotMeasurable if it is none for a microcontroller."""
    folder = Path(artifact.path).resolve()
    if not (folder / DESCRIPTION).is_file():
        raise DeviceError(f"there is no artifact at {folder}")
    try:
        code, text = (folder / OBJECT).read_bytes(), (folder / LAYOUT).read_bytes()
    except OSError as error:
        raise NotMeasurable(
            f"the artifact at {folder} (toolchain {artifact.toolchain}) holds no object code for a microcontroller"
        ) from error
    try:
        layout = Layout.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise NotMeasurable(f"{folder / LAYOUT} is damaged: {where}: {first['msg']}") from error
    return BuiltNetwork(folder, layout, artifact.flash_bytes or len(code), digest_bytes(text + code))


class Images:
    """Links staged networks into as few images of a device as hold them; an image is linked when it is asked for.

    faults: with the firmware that misbehaves on demand, for tests.
    """

    def __init__(self, device: Device, *, faults: bool = False) -> None:
        self._device, self._faults = device, faults
        self._scratch = Path(tempfile.mkdtemp(prefix="hwnas-image-"))
        self._staged: list[BuiltNetwork] = []
        self._residents: list[BuiltNetwork] = []
        self._linked: list[LinkedImage] = []
        self._unfit: dict[BuiltNetwork, str] = {}
        self._fresh = 0  # images from this one on were linked for what is staged now
        self._count = 0

    def stage(self, networks: Sequence[BuiltNetwork]) -> None:
        """These come next, and are linked together; what was staged before and is in no image yet is forgotten."""
        self._staged = list(networks)
        covering = (i for i, linked in enumerate(self._linked) if set(networks) <= set(linked.networks))
        self._fresh = next(covering, len(self._linked))

    def holding(self, network: BuiltNetwork, current: LinkedImage | None = None) -> LinkedImage:
        """An image with that network, `current` if that has it. Raises NotMeasurable if it fits into none."""
        if network in self._unfit:
            raise NotMeasurable(self._unfit[network])
        if current is not None and network in current.networks:
            return current
        if network not in self._staged:  # measured between batches, as a reference is: it stays on board
            self._residents = [network, *(r for r in self._residents if r.folder != network.folder)][:RESIDENTS]
        usable = self._linked[self._fresh :] if network in self._staged else self._linked
        return next((linked for linked in reversed(usable) if network in linked.networks), None) or self._link(network)

    def bare(self) -> LinkedImage:
        """An image of the firmware alone. Raises BuildError."""
        return next((linked for linked in self._linked if not linked.networks), None) or self._keep(())

    def close(self) -> None:
        """Remove the images; safe to call twice."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _link(self, wanted: BuiltNetwork) -> LinkedImage:
        """An image of the wanted network and as many others as fit. Raises NotMeasurable."""
        others = [*self._residents, *self._staged]
        linked = {n for image in self._linked[self._fresh :] for n in image.networks}
        waiting = [n for n in dict.fromkeys(others) if n != wanted and (n in self._residents or n not in linked)]
        chosen = self._fitting(wanted, [n for n in waiting if n not in self._unfit and _is_there(n)])
        while True:
            try:
                return self._keep(tuple(chosen))
            except BuildError as error:
                if shutil.which(COMPILER) is None:
                    raise DeviceUnavailable(error.log) from error
                if len(chosen) == 1:
                    self._unfit[wanted] = f"{self._device.name} cannot hold this network: {error.log}"
                    raise NotMeasurable(self._unfit[wanted]) from error
                chosen = chosen[: len(chosen) // 2]

    def _fitting(self, wanted: BuiltNetwork, others: Sequence[BuiltNetwork]) -> list[BuiltNetwork]:
        """The wanted network, then others while flash and RAM seem to hold them and no symbol stands twice."""
        flash, ram = self._size("flash") - FIRMWARE_FLASH_BYTES, self._size("ram") - FIRMWARE_RAM_BYTES
        assert self._device.mcu is not None
        ram -= int(self._device.mcu.stack)
        chosen, symbols = [wanted], {wanted.layout.symbol}
        used, arena, workspace = wanted.flash_bytes, wanted.layout.arena_bytes, wanted.layout.workspace_bytes
        for other in others:
            wider = max(arena, other.layout.arena_bytes), max(workspace, other.layout.workspace_bytes)
            fits = used + other.flash_bytes <= flash and sum(wider) <= ram and len(chosen) < MOST_NETWORKS
            if fits and other.layout.symbol not in symbols:
                chosen.append(other)
                symbols.add(other.layout.symbol)
                used += other.flash_bytes
                arena, workspace = wider
        return chosen

    def _size(self, use: str) -> int:
        memory = self._device.memory(use)
        assert memory is not None and memory.size is not None  # a microcontroller's are checked when it is loaded
        return int(memory.size)

    def _keep(self, networks: tuple[BuiltNetwork, ...]) -> LinkedImage:
        self._count += 1
        folder = self._scratch / f"image-{self._count}"
        folder.mkdir()
        try:
            image = link_image(
                self._device,
                [(n.object, n.layout.symbol) for n in networks],
                folder,
                arena_bytes=max((n.layout.arena_bytes for n in networks), default=0),
                workspace_bytes=max((n.layout.workspace_bytes for n in networks), default=0),
                faults=self._faults,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        linked = LinkedImage(image, networks, folder)
        self._linked.append(linked)
        while len(self._linked) > KEPT:
            shutil.rmtree(self._linked.pop(0).folder, ignore_errors=True)
            self._fresh = max(0, self._fresh - 1)
        return linked


def _is_there(network: BuiltNetwork) -> bool:
    """False for a network whose files are gone, or were built anew since they were read."""
    try:
        code, text = network.object.read_bytes(), (network.folder / LAYOUT).read_bytes()
    except OSError:
        return False
    return network.digest == digest_bytes(text + code)
