"""`hwnas price`: one network on an accelerator, by its compiler, simulator or law, operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hwnas import api
from hwnas.api.pricing import Priced, fidelity_of
from hwnas.api.pricing import price as price_network
from hwnas.cli.profile import FALLBACK_HELP, SHAPE_HELP, shapes_of
from hwnas.cli.render import metric, out, print_json, print_table
from hwnas.core.device import Device
from hwnas.core.estimate import METRIC_KIND
from hwnas.report.numbers import metric_label
from hwnas.units import show


def price(
    network: Annotated[Path, typer.Argument(help="A quantised ONNX file (QDQ).")],
    device: Annotated[str, typer.Option(help="An accelerator: hwnas devices list.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Keep what was built in this folder.")] = None,
    nominal: Annotated[
        bool, typer.Option("--nominal", help="Cast a float network to int8 with nominal scales, for its price alone.")
    ] = False,
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE_HELP)] = None,
    allow_cpu_fallback: Annotated[bool, typer.Option("--allow-cpu-fallback", help=FALLBACK_HELP)] = False,
    layers: Annotated[int, typer.Option(min=0, help="How many of the heaviest operators to show.")] = 15,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build a network for an accelerator and show what a run costs: simulated or modelled, never measured."""
    target = api.load_device(device)
    if allow_cpu_fallback:
        target = api.with_cpu_fallback(target)
    found = price_network(network, target, into=output, nominal=nominal, shapes=shapes_of(shape))
    if json:
        print_json({
            "device": target.name, "fidelity": target.fidelity, "nominal": nominal, "values": found.values,
            "fidelities": {m: fidelity_of(m, target) for m in found.values},
            "price": found.price.model_dump(mode="json"), "toolchain": found.artifact.toolchain,
        })  # fmt: skip
        return
    _show(network.name + (", cast with nominal scales" if nominal else ""), target, found, layers)
    if output is not None:
        out.print(f"built in {output}")


def _show(name: str, device: Device, found: Priced, most: int) -> None:
    price = found.price
    unit = "cycles" if price.unit == "cycles" else "latency"
    out.print(f"[bold]{escape(name)}[/] on {device.name}, {price.tool}")
    rows = [
        (metric_label(m, device.fidelity), metric(m, value))  # type: ignore[arg-type]
        for m, value in found.values.items()
        if m in METRIC_KIND
    ]
    parts = ", ".join(f"{part} {metric(unit, cost)} ({cost / price.total:.0%})" for part, cost in price.parts.items())
    if unit == "cycles":
        parts = f"{parts}, in cycles"
    traffic = ", ".join(f"{memory} {show(moved, 'bytes')}" for memory, moved in price.traffic.items())
    rows += [
        ("of a run", f"{parts} (CPU and transfer: models)"),
        ("accelerator's MACs, bytes moved", f"{show(price.macs, 'count')}; {traffic or 'none'}"),
        ("tensors handed over", str(price.crossings)),
    ]
    print_table("", ("what", "value"), rows)
    heaviest = sorted(price.layers, key=lambda layer: -layer.cost)[:most]
    if heaviest:
        share = price.total
        print_table(
            f"heaviest of {len(price.layers)} operators",
            ("operator", "kind", "where", unit, "share"),
            [(escape(x.name), escape(x.op), x.where, metric(unit, x.cost), f"{x.cost / share:.1%}") for x in heaviest],
            right=(unit, "share"),
        )
    refused = [layer for layer in price.layers if layer.reason]
    if refused:
        print_table(
            "on the CPU, and why",
            ("operator", "kind", unit, "reason"),
            [(escape(x.name), escape(x.op), metric(unit, x.cost), escape(x.reason)) for x in refused[:most]],
            right=(unit,),
        )
