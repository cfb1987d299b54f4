"""What one network costs on an accelerator, by its compiler, simulator or law: built once, with every operator's share."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.api.pieces import load_toolchain
from hwnas.core.device import Device
from hwnas.core.price import Price, read_price
from hwnas.core.workload import Artifact
from hwnas.errors import ConfigError
from hwnas.graph.load import load_onnx
from hwnas.graph.precision import cast
from hwnas.toolchains.builder import build_one

if TYPE_CHECKING:
    from onnx import ModelProto


def fidelity_of(metric: str, device: Device) -> str:
    """How a value of a priced network came about; sizes and counts of what was built are exact."""
    if metric in ("flash", "constants"):
        return "exact"
    return str(device.fidelity.of(metric))


@dataclass(frozen=True, slots=True)
class Priced:
    """A network's price, and what follows from it by the device's YAML: SI values by metric."""

    price: Price
    artifact: Artifact
    values: dict[str, float]


def price(
    network: ModelProto | Path | str,
    device: Device,
    *,
    into: Path | None = None,
    nominal: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Priced:
    """Build a quantised network for an accelerator and read what a run costs; `into` keeps what was built.

    With `nominal`, a float network is cast to int8 with nominal scales: what it costs, not what it computes; `shapes`
    fixes inputs that an ONNX file leaves open. Raises
    ConfigError for a device without accelerator, BuildError with the operator and the rule that refuses it.
    """
    if device.accelerator is None:
        raise ConfigError(f"{device.name} is no accelerator: profile it, and estimate the network", key="device")
    model = load_onnx(Path(network), shapes) if isinstance(network, str | Path) else network
    if nominal and not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        model = cast(model, "int8")
    chain = load_toolchain(device.toolchains[0], device)
    with tempfile.TemporaryDirectory(prefix="hwnas-") as scratch:
        folder = into or Path(scratch)
        artifact = build_one(chain.name, model, device, folder)
        found = read_price(folder)
    samples = found.samples(1)
    told = {metric: device.value(samples, metric) for metric in (device.metric, *device.derived)}
    told |= {use: float(size) for use, size in artifact.memory.items()}
    told["flash"] = None if artifact.flash_bytes is None else float(artifact.flash_bytes)
    return Priced(found, artifact, {metric: value for metric, value in told.items() if value is not None})
