"""`hwnas devices`: what devices there are, what their numbers rest on, whether their files are sound; set-up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas import config, registry
from hwnas.cli.render import log, out, print_json, print_table
from hwnas.core.device import Device
from hwnas.errors import EXIT_NO, ConfigError, HwnasError
from hwnas.runners import rootfs
from hwnas.runners.board_setup import BoardSetup
from hwnas.units import show

app = typer.Typer(help="List, show, check, probe and set up devices.", no_args_is_help=True)
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
        f"fidelity {device.fidelity}, runner {device.runner}, precisions {', '.join(device.dtypes)}, meter {device.meter or 'none'}, digest {device.digest}"
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
    print_table("", ("part", "value", "source"), [*rows, *_accelerator_rows(device)])
    for toolchain in device.toolchains:
        options = device.options.get(toolchain, {})
        plain = ", ".join(f"{key}={value}" for key, value in options.items() if not isinstance(value, Mapping))
        out.print(f"toolchain {toolchain}: {plain or ('' if options else 'defaults')}".rstrip(), markup=False)
        for key, nested in options.items():
            for name, value in nested.items() if isinstance(nested, Mapping) else ():
                if name != "sources":
                    out.print(f"  {key}.{name} {value}", markup=False, soft_wrap=True)
    for line in _support(device):
        out.print(line, soft_wrap=True)


@app.command("support")
def support(name: str, json: Json = False) -> None:
    """Show which operators an accelerator computes, and under which conditions; the rest is for the CPU beside it."""
    device = config.load_device(name)
    rows = [line for toolchain in device.toolchains for line in _supported(toolchain)]
    if not rows:
        raise ConfigError("has no support rules: its toolchains take what ONNX allows", key=name)
    if json:
        print_json([{"operator": r.operator, "rule": r.rule, "conditions": list(r.conditions)} for r in rows])
        return
    print_table("", ("operator", "rule", "as long as"), [(r.operator, r.rule, "; ".join(r.conditions)) for r in rows])


def _accelerator_rows(device: Device) -> list[tuple[str, str, str]]:
    """Clock, energy rule, transfers and companion CPU of an accelerator, each with its source."""
    accelerator = device.accelerator
    if accelerator is None:
        return []
    rows = [("clock", show(accelerator.clock, "frequency"), accelerator.source)]
    if (energy := accelerator.energy) is not None:
        bytes_ = ", ".join(f"{show(j, 'energy')} a byte of {memory}" for memory, j in energy.per_byte.items())
        rule = f"{show(energy.per_mac, 'energy')} a MAC, {bytes_}, {show(energy.power, 'power')} while it runs"
        rows.append(("energy (model)", rule, energy.source))
    if (way := accelerator.transfer) is not None:
        told = f"{show(way.latency, 'time')} a tensor, {show(way.bandwidth, 'bandwidth')}"
        rows.append(("transfer (model)", told, way.source))
    if (cpu := accelerator.cpu) is not None:
        rate = f"{show(cpu.macs_per_s, 'rate')} MACs, {show(cpu.bandwidth, 'bandwidth')}, overhead {show(cpu.overhead, 'time')}"
        rows.append(("CPU rest (model)", f"{rate}{', table of ' + cpu.device if cpu.device else ''}", cpu.source))
    return rows


def _supported(toolchain: str) -> tuple[Any, ...]:
    rules = getattr(registry.toolchains.load(toolchain)(), "support", None)
    return () if rules is None else tuple(rules())


def _support(device: Device) -> list[str]:
    """One line on what an accelerator computes: the table is a command of its own."""
    known = sorted({line.operator for toolchain in device.toolchains for line in _supported(toolchain)})
    return [f"computes {', '.join(known)}; conditions: hwnas devices support {device.name}"] if known else []


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


@app.command("setup")
def setup(
    name: str,
    ssh: Annotated[str | None, typer.Option("--ssh", metavar="USER@HOST", help="Set this real board up.")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The board's port, on 127.0.0.1.")] = 9091,
    tracker: Annotated[int, typer.Option("--tracker", min=1, max=65535, help="The tracker's port.")] = 9190,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
) -> None:
    """Prepare what a device needs: the root file system of an emulated board, or a Linux board over ssh."""
    device = config.load_device(name)
    if device.rpc is None:
        hint = f"; plug it in, and name it in {config.lab_file()}" if device.runner == "firmware" else ""
        raise ConfigError(f"runner {device.runner!r} needs no set-up{hint}", key=name)
    if "tvm-cuda" in device.toolchains:
        raise ConfigError(
            "the agent runs CPU libraries only so far; a Jetson's are compiled, and not run yet", key=name
        )
    if device.rpc.emulated is not None and ssh is None:
        _set_up_emulation(dry_run, yes)
        return
    if ssh is None:
        raise ConfigError("say which board, such as --ssh pi@raspberrypi", key=name)
    board = BoardSetup(device, ssh, port, tracker)
    for line in board.shown() if dry_run else ():
        out.print(line, markup=False, soft_wrap=True)
    if not dry_run:
        if not yes:
            typer.confirm(f"install packages and a service on {ssh}, for its user?", abort=True, err=True)
        board.perform(lambda text: log.print(text, markup=False, soft_wrap=True))
    for line in board.afterwards():
        out.print(line, markup=False, soft_wrap=True)


def _set_up_emulation(dry_run: bool, yes: bool) -> None:
    folder = config.cache_folder() / "arm64"
    if dry_run:
        out.print(f"into {folder}:", markup=False, soft_wrap=True)
        for step in rootfs.steps():
            for line in step.shown:
                out.print(f"{line}   # {step.name}: {step.size}", markup=False, soft_wrap=True)
        return
    if not yes:
        typer.confirm(f"fetch 155 MB and write 380 MB to {folder}?", abort=True, err=True)
    root = rootfs.build(lambda text: log.print(text, markup=False, soft_wrap=True))
    out.print(f"ready: {root.folder} ({root.counter})", markup=False, soft_wrap=True)


def _check_names(device: Device, path: Path) -> None:
    """Raises ConfigError for a runner or toolchain that nobody knows, and for what a toolchain's `check` refuses."""
    if device.runner not in registry.runners.names():
        raise ConfigError(
            "unknown runner", path=path, key="runner", given=device.runner, allowed=registry.runners.names()
        )
    for toolchain in device.toolchains:
        if toolchain not in registry.toolchains.names():
            raise ConfigError(
                "unknown toolchain", path=path, key="toolchains", given=toolchain, allowed=registry.toolchains.names()
            )
        if (hook := getattr(registry.toolchains.load(toolchain)(), "check", None)) is not None:
            try:
                hook(device)
            except ConfigError as error:
                raise ConfigError(str(error), path=path) from error
