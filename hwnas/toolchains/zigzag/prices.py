"""What ZigZag says of kernels, each asked once: seconds to minutes of search are kept on disk by what was asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.config import cache_folder
from hwnas.digest import canonical_json, content_id, digest_bytes
from hwnas.errors import BuildError, ConfigError, HwnasError
from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout
from hwnas.records import write_atomically
from hwnas.toolchains.zigzag.nest import Nest
from hwnas.toolchains.zigzag.settings import ZigzagSettings

STAGE = "zigzag"
PACKAGES = ("zigzag-dse", "six")
"""ZigZag imports six and does not ask for it."""
INSTALL = 'ZigZag is not installed: pip install "hwnas[zigzag]"'
ASKED = 1
"""Changes with whatever changes an answer to the same question."""
MAX_BYTES = 2**16

Amount = Annotated[float, Field(ge=0)]


class KernelPrice(BaseModel):
    """What ZigZag says of one kernel.

    latency_cycles: its latency; port_cycles: how long its busiest memory port takes for the words of the same mapping;
    macs; energy_j: what it makes of MACs and words; traffic: bytes by memory and direction, as in dram_read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
    latency_cycles: float = Field(gt=0)
    port_cycles: Amount
    macs: float = Field(gt=0)
    energy_j: float = Field(gt=0)
    traffic: dict[str, Amount] = Field(min_length=1, max_length=64)

    @property
    def cycles(self) -> float:
        """What a run takes: no less than its busiest port.

        ZigZag hides loading behind computing for each transfer apart, and lets the port of DRAM pass more than it can:
        up to half again as much for kernels of mbconv-micro on the array of an Edge TPU.
        """
        return max(self.latency_cycles, self.port_cycles)


class _Kept(BaseModel):
    """A file of the cache; the digest tells a torn or altered one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    question: str
    price: KernelPrice
    digest: str


def zigzag_version() -> str:
    """ZigZag's version. Raises BuildError that says what to install."""
    try:
        found, _ = (version(package) for package in PACKAGES)
    except PackageNotFoundError:
        raise BuildError(STAGE, INSTALL) from None
    return found


def price_nests(nests: Sequence[Nest], settings: ZigzagSettings) -> list[KernelPrice]:
    """The price of each kernel, in order, by ZigZag or as it was kept.

    Raises BuildError for a kernel that ZigZag cannot map, for the deadline, and where ZigZag is missing; ConfigError
    for hardware or a mapping that ZigZag does not have.
    """
    hardware = _shipped("hardware", settings.hardware)
    mapping = None if settings.mapping is None else _shipped("mapping", settings.mapping)
    asked = [_question(nest, hardware, mapping, settings) for nest in nests]
    keys = [content_id(question) for question in asked]
    known = {key: _read(key) for key in dict.fromkeys(keys)}
    ends = time.monotonic() + settings.deadline
    for key, nest in zip(keys, nests):
        if known[key] is None:
            request = {
                "nest": nest, "hardware": str(hardware), "mapping": None if mapping is None else str(mapping),
                "loops": settings.loops, "mappings": settings.mappings,
            }  # fmt: skip
            left = sum(price is None for price in known.values())
            known[key] = _ask(request, ends, settings, f"{len(known) - left} of {len(known)}")
            _keep(key, known[key])
    return [price for key in keys if (price := known[key]) is not None]


def _question(nest: Nest, hardware: Path, mapping: Path | None, settings: ZigzagSettings) -> Mapping[str, Any]:
    """All that decides an answer."""
    return {
        "asked": ASKED,
        "zigzag": zigzag_version(),
        "nest": nest,
        "hardware": digest_bytes(hardware.read_bytes()),
        "mapping": None if mapping is None else digest_bytes(mapping.read_bytes()),
        "search": [settings.loops, settings.mappings],
    }


def _shipped(kind: str, name: str) -> Path:
    """A file of ZigZag's inputs. Raises BuildError where ZigZag is missing, ConfigError for an unknown name."""
    zigzag_version()
    found = find_spec("zigzag")
    if found is None or not found.submodule_search_locations:
        raise BuildError(STAGE, INSTALL)
    folder = Path(found.submodule_search_locations[0]) / "inputs" / kind
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(f"ZigZag ships no {kind} {name!r}", key=f"options.zigzag.{kind}", given=name, allowed=known)
    return path


@cache
def _worker() -> tuple[Child, Lock]:
    """ZigZag's process, which takes seconds to start and dies with this one."""
    # sets break ties between mappings that are equally fast: the same one in every process
    environment = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return Child("hwnas.toolchains.zigzag.worker", environment), Lock()


def _ask(request: Mapping[str, Any], ends: float, settings: ZigzagSettings, done: str) -> KernelPrice:
    child, lock = _worker()
    dimensions = zip(request["nest"]["loop_dims"], request["nest"]["loop_sizes"])
    kernel = " x ".join(f"{name} {size}" for name, size in dimensions if size > 1) or "one product"
    try:
        with lock:
            answer = child.request(request, timeout_s=max(ends - time.monotonic(), 1e-3))
        return KernelPrice.model_validate(answer)
    except ChildTimeout:
        raise BuildError(
            STAGE,
            f"ZigZag did not end within {settings.deadline:g} s; {done} kernels are priced and kept, the next is {kernel}. "
            "Build again to go on; where that kernel alone takes too long, lower options.zigzag.loops or mappings",
        ) from None
    except ChildError as error:
        said = " ".join(str(error).split())[:500]
        raise BuildError(
            STAGE, f"ZigZag finds no way to map {kernel} onto {settings.hardware}: {error.kind}: {said}"
        ) from error
    except ChildCrashed as error:
        raise BuildError(STAGE, f"ZigZag failed: {error}") from error
    except ValidationError as error:
        reason = error.errors()[0]
        raise BuildError(
            STAGE, f"ZigZag prices {kernel} at nothing sound: {'.'.join(map(str, reason['loc']))}: {reason['msg']}"
        ) from error


def _file(key: str) -> Path:
    return cache_folder() / "zigzag" / f"{key}.json"


def _read(key: str) -> KernelPrice | None:
    """A price as it was kept; None where there is none, or none that is whole: it is asked for again."""
    path = _file(key)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:  # a pipe would keep us waiting
            return None
        kept = _Kept.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    sound = kept.question == key and kept.digest == content_id(kept.price.model_dump())
    return kept.price if sound else None


def _keep(key: str, price: KernelPrice | None) -> None:
    """Keep a price; a full or unwritable disk keeps none, and nothing else happens."""
    assert price is not None
    values = price.model_dump()
    with suppress(OSError, HwnasError):
        write_atomically(_file(key), canonical_json({"question": key, "price": values, "digest": content_id(values)}))
