"""`hwnas search`, `verify`, `export` and `report`: a run in its folder, from start to bundle."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID

from hwnas import config
from hwnas.api.bundles import Checked, check_bundle, checks_json, export_candidate
from hwnas.api.judging import Outcome, StageBegan
from hwnas.api.run import Run, check_device, finish
from hwnas.api.settings import load_run
from hwnas.cli.render import log, metric, out, print_json, print_table, progress
from hwnas.deploy.bundle import FORMATS, MANIFEST
from hwnas.errors import EXIT_NO, ConfigError, Interrupted
from hwnas.profiling.profiler import Measured
from hwnas.report.html import write_report
from hwnas.report.numbers import metric_label
from hwnas.report.record import Regret, RunRecord
from hwnas.search.events import AccuracyKnown, Finished, Front, MeasuredOnDevice, Started
from hwnas.units import show

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def search(
    settings: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="What to search for; see the README.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the file's.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="The run's folder; default: runs/NAME.")] = None,
    tables: Annotated[
        Path | None, typer.Option("--table", help="A folder of latency tables to use and add to.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the resolved settings, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the record of the run as JSON.")] = False,
) -> None:
    """Search a space under a budget, train and measure the finalists, and bundle the winner.

    Profiles the device first where its table does not cover the space. Interrupt it at any time: --resume goes on.
    """
    resolved = load_run(settings)
    changes = {k: v for k, v in (("seed", seed), ("trials", trials)) if v is not None}
    resolved = resolved.model_copy(update={"search": resolved.search.model_copy(update=changes)})
    if dry_run:
        check_device(resolved, config.load_device(resolved.device))
        print_json(resolved.model_dump(mode="json", by_alias=True))
        return
    folder = output or Path("runs") / settings.stem
    if (folder / "run.json").exists() and not resume:
        raise ConfigError(f"{folder} holds a run already; add --resume to go on with it, or name another --out")
    run = Run(resolved, folder, tables)
    try:
        record = follow(run)
    except KeyboardInterrupt:
        again = [a for a in sys.argv[1:] if a != "--resume"]
        raise Interrupted(shlex.join(["hwnas", *again, "--resume"])) from None
    if json:
        print_json(record.model_dump(mode="json"))
    else:
        print_outcome(record, folder)


def follow(run: Run, regret: Sequence[Regret] | None = None) -> RunRecord:
    """Do a run with progress on stderr, then write its bundle, record and report."""
    outcome: Outcome | None = None
    events = run.events()
    with progress("") as bar:
        shown = Shown(bar, run)
        try:
            for event in events:
                if isinstance(event, Outcome):
                    outcome = event
                else:
                    shown.take(event)
        finally:
            events.close()
        assert outcome is not None
        shown.begin("bundle", "the winner in every form, report", 1)
        record = finish(run, outcome, regret)
        write_report(record, run.folder / "report.html")
        shown.advance()
    return record


class Shown:
    """Progress of a run: one bar a stage, with time left."""

    def __init__(self, bar: Progress, run: Run) -> None:
        self._bar, self._run = bar, run
        self._task: TaskID | None = None

    def begin(self, name: str, detail: str, total: float | None) -> None:
        """Close the stage before and begin another."""
        if self._task is not None:
            done = self._bar.tasks[self._task].completed
            self._bar.update(self._task, total=max(done, 1), completed=max(done, 1))
        log.print(f"[bold]{name}[/]  {detail}", highlight=False)
        self._task = self._bar.add_task(name, total=total)

    def advance(self) -> None:
        assert self._task is not None
        self._bar.advance(self._task)

    def take(self, event: Any) -> None:
        """Show one event."""
        match event:
            case StageBegan():
                totals = {"search": float(self._run.settings.accuracy.queries)}
                self.begin(event.name, event.detail, totals.get(event.name))
            case Measured():
                assert self._task is not None
                done = self._bar.tasks[self._task].completed + 1
                self._bar.update(self._task, total=done + event.left, completed=done)
            case Started() if event.recorded:
                log.print(f"resuming: {event.recorded} answers are in the journal")
            case AccuracyKnown():
                self.advance()
                known = "failed" if event.accuracy is None else f"{100 * event.accuracy:.1f} %"
                log.print(f"  {event.count:3}  {known:>7}  {event.encoded}", soft_wrap=True)
            case MeasuredOnDevice() if event.failure:
                log.print(f"  [yellow]not measured:[/] {event.encoded}: {escape(event.failure)}")
            case Front() | Finished():
                pass


def print_outcome(record: RunRecord, folder: Path) -> None:
    """The winner and the finalists, on stdout."""
    rows = []
    told = record.objective
    for f in record.finalists:
        readings = f.readings.get(told, ())
        estimate = f.estimate.get(told)
        rows.append(
            (
                "winner" if f.winner else ("" if f.meets_budget else "over budget"),
                " / ".join(f"{100 * a:.1f}" for a in f.val_accuracies),
                "" if f.test_accuracy is None else f"{100 * f.test_accuracy:.1f} %",
                "" if estimate is None else metric(told, estimate[0]),
                f"{metric(told, f.value(told))} ({metric(told, min(readings))} to {metric(told, max(readings))})",
                show(f.measured.get("flash"), "bytes"),
                f.encoded,
            )
        )
    title = f"finalists on {record.device} ({record.machine}), {record.toolchain.name} {record.toolchain.version}, {record.fidelity}"
    columns = (
        "",
        "validation %, a seed each",
        "test",
        "estimated",
        f"{record.fidelity.of(told).participle} {told}, spaced readings",
        "flash",
        "candidate",
    )
    print_table(title, columns, rows, right=("test", "estimated", "flash"))
    best = next(f for f in record.finalists if f.winner)
    limits = [
        f"{metric_label(m, record.fidelity)} {metric(m, best.value(m))} of {metric(m, v)}"
        for m, v in record.budget.items()
    ]
    out.print("budget, and the winner in it: " + ", ".join(limits))
    if record.noise:
        out.print(f"test-retest of accuracies: Kendall {record.noise.kendall:.2f} (n = {record.noise.pairs})")
    if record.predictor:
        out.print(
            f"{told} predictor: {100 * record.predictor.mape:.1f} % out of fold on {record.predictor.networks} networks"
        )
    for note in record.notes:
        out.print(f"note: {escape(note)}")
    out.print(f"bundle {folder / 'bundle'}, report {folder / 'report.html'}")


def verify(
    folder: Annotated[Path, typer.Argument(metavar="RUNDIR", help="A run's folder, or a bundle.")],
    top: Annotated[int | None, typer.Option(min=1, help="Finalists of a run to measure again; default: all.")] = None,
    tolerance: Annotated[str, typer.Option(help="Allowed error of the estimate.")] = "10 %",
    json: Json = False,
) -> None:
    """Measure again: a bundle against its manifest, or a run's finalists against budget and estimate.

    Exit code 1 if a promise is not kept.
    """
    from hwnas import units
    from hwnas.api.recheck import verify_run

    if (folder / MANIFEST).exists():
        checks = check_bundle(folder)
    elif (folder / "bundle" / MANIFEST).exists():
        checks = verify_run(folder, top, units.parse(tolerance, "ratio"))
    else:
        raise ConfigError(f"{folder} holds neither a bundle nor a finished run")
    print_checks(checks, json)
    if not all(c.kept for c in checks):
        raise typer.Exit(EXIT_NO)


def print_checks(checks: list[Checked], json: bool) -> None:
    """Promises and what was found, on stdout."""
    if json:
        print_json(checks_json(checks))
        return
    rows = [(c.name, c.promised, c.found, "kept" if c.kept else "[red]NOT KEPT[/]") for c in checks]
    print_table("", ("what", "promised", "found", ""), rows)


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUNDIR")],
    candidate: Annotated[str, typer.Option(help="A finalist's id (or its start), or its text.")],
    formats: Annotated[list[str], typer.Option("--format", help=f"{', '.join(FORMATS)}; may repeat.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to.")] = Path("export"),
) -> None:
    """Export a finalist of a run."""
    for path in export_candidate(folder, candidate, formats, output):
        out.print(f"{path}  {show(path.stat().st_size, 'bytes')}")


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUNDIR")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: RUNDIR/report.html.")] = None,
    json: Json = False,
) -> None:
    """Write the report of a run again, from its record."""
    record = RunRecord.read(folder / "record.json")
    if json:
        sys.stdout.write(jsonlib.dumps(record.model_dump(mode="json"), indent=2) + "\n")
        return
    out.print(str(write_report(record, output or folder / "report.html")))
