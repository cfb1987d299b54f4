"""`hwnas devices`: what devices there are, what their numbers rest on, whether their files are sound; set-up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    if device.runner not in registry.runners.names():
        raise ConfigError(
            "unknown runner", path=path, key="runner", given=device.runner, allowed=registry.runners.names()
        )
    for toolchain in device.toolchains:
        if toolchain not in registry.toolchains.names():
            raise ConfigError(
                "unknown toolchain", path=path, key="toolchains", given=toolchain, allowed=registry.toolchains.names()
            )
