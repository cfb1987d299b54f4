"""The `hwnas` command: sub-commands by topic, and one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import typer
from rich.markup import escape

from hwnas import __version__
from hwnas.cli import devices, doctor, networks, pricing, profile, search, tables
from hwnas.cli.render import log
from hwnas.errors import EXIT_BUG, EXIT_INTERRUPTED, HwnasError

app = typer.Typer(
    name="hwnas",
    help="Fit neural networks onto small hardware: profile a device, search under its budget, export what was measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(devices.app, name="devices")
app.add_typer(tables.app, name="table")
app.command("profile")(profile.profile)
app.command("fit")(networks.fit)
app.command("estimate")(networks.estimate)
app.command("price")(pricing.price)
app.command("proxies")(networks.proxies)
app.command("search")(search.search)
app.command("verify")(search.verify)
app.command("export")(search.export)
app.command("report")(search.report)
app.command("doctor")(doctor.doctor)


def _version(value: bool) -> None:
    if value:
        print(f"hwnas {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Options before the sub-command."""


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    guarded(lambda: app(args=arguments, prog_name="hwnas", standalone_mode=True))


def guarded(work: Callable[[], object]) -> None:
    """Do the work; an error of ours becomes a message and its exit code, anything else is a bug and shows a traceback."""
    try:
        work()
    except HwnasError as error:
        log.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        log.print("\ninterrupted; everything recorded is kept")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output (head, less) has gone
    except Exception:
        traceback.print_exc()
        log.print("[bold red]this is a bug in hwnas[/]; please report it with the lines above")
        sys.exit(EXIT_BUG)


if __name__ == "__main__":
    run()
