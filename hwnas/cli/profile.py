"""`hwnas profile`: measure a space's or a network's workloads on a device, into a latency table."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from hwnas import api, units
from hwnas.api.tuning import tunable
from hwnas.cli.render import log, out, print_table, progress, uncovered_kernels
from hwnas.cli.tuning import tune_first
from hwnas.core.measurement import Failure, Samples
from hwnas.core.workload import Workload
from hwnas.errors import EXIT_NO, ConfigError, Interrupted
from hwnas.graph.describe import describe
from hwnas.graph.precision import PRECISIONS, Precision
from hwnas.profiling.measure import sustained
from hwnas.profiling.profiler import Checked, Event, Finished, Measured, Opened
from hwnas.tables.exchange import counts, uncovered
from hwnas.tables.table import LatencyTable
from hwnas.toolchains.tvm import TvmToolchain

READING_GUESS_S = 0.06
"""Seconds a subject takes, before anything was measured (for --dry-run)."""


TUNE_HELP = (
    "First spend so many trials on faster schedules for the heaviest kernels of the network, or of a few networks of "
    "the space; then build with them, into a table of its own. Only through TVM on this computer. A trial takes about "
    "half a second and a kernel gets 16 or more; few kernels become faster than the rules have them. Results are kept "
    "for all networks in the cache folder, a second run goes on with other kernels, and a device file with options: "
    "{tvm: {tuned: true}} builds with them too. Default 0: no tuning."
)
FALLBACK_HELP = (
    "Leave to the CPU beside an accelerator what that does not compute, at a price; without it such an operator is an "
    "error. `hwnas devices support DEVICE` lists what is computed."
)
PRECISION_HELP = "fp32 or int8: of the networks of --space; default: fp32 where the device computes it, else int8."
SHAPE_HELP = "The shape of an input that the ONNX file leaves open, input=1x3x224x224; may repeat."


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` options of a space, values read as YAML scalars. Raises ConfigError."""
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r}: write it as key=value, for example --set resolution=32")
        found[key] = yaml.safe_load(value)
    return found


def precision_of(text: str | None) -> Precision | None:
    """A precision by name; None where none is given. Raises ConfigError."""
    if text is not None and text not in PRECISIONS:
        raise ConfigError("unknown precision", key="--precision", given=text, allowed=PRECISIONS)
    return text


def shapes_of(pairs: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`input=1x3x224x224` options: the shapes of inputs that an ONNX file leaves open. Raises ConfigError."""
    found: dict[str, tuple[int, ...]] = {}
    for pair in pairs or []:
        name, equals, text = pair.rpartition("=")
        sizes = text.split("x")
        if not equals or not name or not all(s.isdecimal() and int(s) > 0 for s in sizes):
            raise ConfigError(f"--shape {pair!r}: write it as input=1x3x224x224")
        found[name] = tuple(int(s) for s in sizes)
    return found


def profile(
    device: Annotated[str, typer.Argument(help="A device name (hwnas devices list) or a YAML file.")],
    space: Annotated[str | None, typer.Option(help="Profile the workloads of this search space.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the space, key=value; may repeat.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="Profile the workloads of this network.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE_HELP)] = None,
    toolchain: Annotated[
        str | None, typer.Option(help="Build with this toolchain; default: every one the device has.")
    ] = None,
    workloads: Annotated[int | None, typer.Option(min=1, help="At most so many workloads; default: all.")] = None,
    networks: Annotated[int, typer.Option(min=0, help="Whole networks, to calibrate the correction.")] = api.NETWORKS,
    for_: Annotated[str | None, typer.Option("--for", help="Stop after this time, such as 2h or '90 s'.")] = None,
    table: Annotated[Path, typer.Option(help="The folder of tables.")] = api.TABLES,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what has a valid row already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured, and stop.")] = False,
    precision: Annotated[str | None, typer.Option(help=PRECISION_HELP)] = None,
    boards: Annotated[
        int | None, typer.Option(min=1, help="At most so many boards side by side; default: all.")
    ] = None,
    heat: Annotated[
        str | None,
        typer.Option("--sustained", help="Load the board so long first, such as 10min, and take the 95th percentile."),
    ] = None,
    allow_cpu_fallback: Annotated[bool, typer.Option("--allow-cpu-fallback", help=FALLBACK_HELP)] = False,
    seed: Annotated[int, typer.Option(help="Seed of the plan.")] = 0,
    tune: Annotated[int, typer.Option(min=0, help=TUNE_HELP, metavar="TRIALS")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each event.")] = False,
) -> None:
    """Measure workloads on a device: adaptive repeats, a drift check around each session, every row kept.

    Interrupt it at any time: what was measured stays, and --resume goes on.
    """
    if (space is None) == (onnx is None):
        raise ConfigError("name either --space or --onnx")
    target = api.load_device(device)
    if heat is not None:
        target = sustained(target, units.parse(heat, "time"))
    if allow_cpu_fallback:
        target = api.with_cpu_fallback(target)
    if tune:
        target, toolchain = tunable(target, toolchain), TvmToolchain.name
    for_s = None if for_ is None else units.parse(for_, "time")
    source: Any = onnx if space is None else api.load_space(space, **settings_of(setting))
    for name in [toolchain] if toolchain else list(target.toolchains):
        todo = api.plan_profile(
            target,
            source,
            shapes=shapes_of(shape),
            toolchain=name,
            workloads=workloads,
            networks=networks,
            tables=table,
            resume=resume,
            seed=seed,
            precision=precision_of(precision),
            boards=boards,
        )
        if dry_run:
            out.print(
                f"{target.name} through {name}: {todo.plan.left} subjects to measure "
                f"({len(todo.subjects.known)} workloads and {len(todo.subjects.networks)} networks in all), "
                f"about {units.show(todo.plan.left * READING_GUESS_S, 'time')} without building, into {todo.table}"
                + (f", after at most {tune} trials of tuning" if tune else "")
            )
            continue
        try:
            if tune:
                tune_first(todo, tune, json)
            _follow(todo, for_s, json)
        except KeyboardInterrupt:
            raise Interrupted(resume_command(sys.argv)) from None


def resume_command(arguments: list[str]) -> str:
    """The command that goes on where this one stopped."""
    rest = [a for a in arguments[1:] if a != "--resume"]
    return shlex.join(["hwnas", *rest, "--resume"])


def _follow(todo: api.Profile, for_s: float | None, json: bool) -> None:
    events = todo.events(for_s)
    finished: Finished | None = None
    with progress("subjects") as bar:
        task = bar.add_task(f"{todo.device.name} / {todo.toolchain.name}", total=todo.plan.left)
        try:
            for event in events:
                if json:
                    print(jsonlib.dumps(event_json(event, todo.device.metric)), flush=True)
                if isinstance(event, Measured):
                    bar.update(task, total=bar.tasks[0].completed + 1 + event.left, advance=1)
                    if not event.row.ok:
                        why = event.row.result
                        assert isinstance(why, Failure)
                        log.print(f"[yellow]failed[/] in {why.stage}:", escape(f"{_what(event)}: {why.message}"))
                elif isinstance(event, Checked) and not event.check.passed:
                    log.print(
                        f"[yellow]note:[/] the reference workload drifted by {event.check.drift:+.0%} within a session; "
                        f"its rows are kept as failures and {event.given_back} subjects are measured again"
                    )
                elif isinstance(event, Finished):
                    finished = event
        finally:
            events.close()  # type: ignore[attr-defined]
    if finished is not None and finished.rows and finished.failures == finished.rows:
        log.print("nothing could be measured")
        raise typer.Exit(EXIT_NO)
    if json or finished is None:
        return
    table = LatencyTable.read(todo.table)
    held = counts(table)
    rows = [
        ("table", todo.table),
        ("rows this time", f"{finished.rows} ({finished.failures} failures)"),
        ("in the table", ", ".join(f"{n} {what}" for what, n in held.items())),
        ("device time saved", f"{1 - finished.reading_share:.0%} of the readings of a fixed 10 + 50 protocol"),
    ]
    print_table("", ("profile", todo.device.name), rows)
    uncovered_kernels(uncovered(table))


def _what(event: Measured) -> str:
    return describe(event.subject) if isinstance(event.subject, Workload) else f"network {event.subject.label}"


def event_json(event: Event, told: str) -> dict[str, Any]:
    """An event as JSON."""
    match event:
        case Opened():
            return {
                "event": "opened",
                "context": event.context.id,
                "board": event.context.board,
                "table": str(event.table),
                "left": event.left,
            }
        case Measured():
            result = event.row.result
            value = (
                {
                    "metric": told,
                    "value": result.metric(told),
                    "readings": len(result.readings(told)),
                    "uncovered": list(result.uncovered),
                }
                if isinstance(result, Samples)
                else {"failure": {"stage": result.stage, "error": result.error, "message": result.message}}
            )
            return {
                "event": "measured",
                "context": event.row.context,
                "subject": event.subject.id,
                "what": _what(event),
                "left": event.left,
                **value,
            }
        case Checked():
            check = event.check
            return {"event": "checked", "drift": check.drift, "passed": check.passed, "given_back": event.given_back}
        case Finished():
            return {
                "event": "finished", "reason": event.reason, "rows": event.rows, "failures": event.failures,
                "reading_share": event.reading_share,
            }  # fmt: skip
