"""`hwnas devices`: what devices there are, what their numbers rest on, whether their files are sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas import config, registry
from hwnas.cli.render import log, out, print_json, print_table
from hwnas.core.device import Device
from hwnas.errors import EXIT_NO, ConfigError, HwnasError
from hwnas.units import show

app = typer.Typer(help="List, show, check and probe devices.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_devices(json: Json = False) -> None:
    """List every device that hwnas knows."""
    known = [config.load_device(name) for name in sorted(config.device_files())]
    if json:
        print_json(
            [{"name": d.name, "fidelity": d.fidelity, "toolchains": d.toolchains, "summary": d.summary} for d in known]
        )
        return
    rows = [(d.name, d.fidelity, ", ".join(d.toolchains), d.summary) for d in known]
    print_table("", ("name", "fidelity", "toolchains", "what it is"), rows)


@app.command("show")
def show_device(name: str, json: Json = False) -> None:
    """Show one device with the source of every number."""
    device = config.load_device(name)
    if json:
        print_json(device.model_dump(mode="json", by_alias=True))
        return
    out.print(f"[bold]{device.name}[/]  {device.summary}")
    out.print(
        f"fidelity {device.fidelity}, runner {device.runner}, meter {device.meter or 'none'}, digest {device.digest}"
    )
    compute = device.compute
    rows = [
        (
            "compute",
            f"{compute.isa}, {show(compute.macs_per_s, 'rate')} MACs, overhead {show(compute.overhead, 'time')}",
            compute.source,
        )
    ]
    for memory in device.memories:
        size = show(memory.size, "bytes") if memory.size else "as the machine has"
        speed = f", {show(memory.bandwidth, 'bandwidth')}" if memory.bandwidth else ""
        rows.append((memory.use, size + speed, memory.source))
    print_table("", ("part", "value", "source"), rows)
    for toolchain in device.toolchains:
        options = ", ".join(f"{k}={v}" for k, v in device.options.get(toolchain, {}).items())
        out.print(f"toolchain {toolchain}: {options or 'defaults'}")


@app.command("check")
def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Device files; all shipped ones if none.")] = None,
) -> None:
    """Check device files; exit code 1 if one is not sound."""
    bad = 0
    for path in paths or sorted(config.device_files().values()):
        try:
            device = config.load_device(path)
            _check_names(device, path)
            out.print(f"ok    {path.name}  {device.name} {device.digest}")
        except HwnasError as error:
            bad += 1
            log.print(f"[red]bad[/]   {error}", markup=True)
    if bad:
        raise typer.Exit(EXIT_NO)


@app.command("probe")
def probe(name: str, json: Json = False) -> None:
    """Open a device and show what it says about itself."""
    device = config.load_device(name)
    board = registry.runners.load(device.runner)().open(device)
    try:
        facts = dict(board.facts())
    finally:
        board.close()
    if json:
        print_json(facts)
    else:
        print_table("", ("fact", "value"), [(k, "not known" if v is None else v) for k, v in facts.items()])


def _check_names(device: Device, path: Path) -> None:
    if device.runner not in registry.runners.names():
        raise ConfigError(
            "unknown runner", path=path, key="runner", given=device.runner, allowed=registry.runners.names()
        )
    for toolchain in device.toolchains:
        if toolchain not in registry.toolchains.names():
            raise ConfigError(
                "unknown toolchain", path=path, key="toolchains", given=toolchain, allowed=registry.toolchains.names()
            )
