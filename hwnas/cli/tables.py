"""`hwnas table`: look at latency tables, check, merge, compare and export them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hwnas.cli.render import log, metric, out, print_json, print_table, uncovered_kernels
from hwnas.errors import EXIT_NO, HwnasError
from hwnas.graph.describe import describe
from hwnas.graph.workloads import parse_workload
from hwnas.tables import exchange
from hwnas.tables.table import LatencyTable, merge

app = typer.Typer(help="Show, check, merge, compare, import and export latency tables.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _read(path: Path) -> LatencyTable:
    table = LatencyTable.read(path)
    if table.torn:
        log.print(f"[yellow]note:[/] {path} ends in {len(table.torn)} torn bytes; whole rows are unaffected")
    return table


@app.command("show")
def show_table(
    path: Path, top: Annotated[int, typer.Option(help="How many rows, largest first.")] = 20, json: Json = False
) -> None:
    """Show a table: recipe, counts, and its largest workloads with interval and number of readings."""
    table = _read(path)
    rows = exchange.summary_rows(table)
    for row in rows:
        if row["subject"] in table.workloads:
            row["what"] = describe(table.workloads[row["subject"]])
    if json:
        found = exchange.uncovered(table)
        print_json(
            {"recipe": exchange.recipe_json(table), "counts": exchange.counts(table), "uncovered": found, "rows": rows}
        )
        return
    recipe = table.recipe
    out.print(f"[bold]{recipe.device}[/] ({recipe.fidelity}) on {recipe.machine}")
    protocol = f", {recipe.protocol} protocol (95th percentiles)" if recipe.protocol else ""
    out.print(f"{recipe.toolchain} {recipe.toolchain_version}, schedule {recipe.schedule}{protocol}")
    out.print(", ".join(f"{n} {what}" for what, n in exchange.counts(table).items()))
    told = recipe.fidelity.metric
    shown = [
        (
            r["subject"][:10],
            metric(told, r["value"]),
            f"±{100 * r['half_width']:.1f} %",
            r["readings"],
            escape(r["what"] + (f" [{r['code'][0]}]" if len(r["code"]) == 1 else "")),
        )
        for r in rows[:top]
    ]
    print_table("", ("id", told, "middle 90 %", "readings", "what"), shown, right=(told, "middle 90 %", "readings"))
    uncovered_kernels(exchange.uncovered(table))


@app.command("check")
def check(paths: list[Path]) -> None:
    """Check tables: every id against its content, every workload against its canonical form; exit code 1 if one is bad."""
    bad = 0
    for path in paths:
        try:
            table = _read(path)
            for workload in table.workloads.values():
                parse_workload(workload.onnx, workload.op)
            out.print(f"ok    {path}: " + ", ".join(f"{n} {what}" for what, n in exchange.counts(table).items()))
            uncovered_kernels(exchange.uncovered(table))
        except HwnasError as error:
            bad += 1
            log.print(f"bad   {error}", markup=False)
    if bad:
        raise typer.Exit(EXIT_NO)


@app.command("merge")
def merge_tables(
    a: Path, b: Path, output: Annotated[Path, typer.Option("-o", "--output", help="The merged table.")]
) -> None:
    """Merge two tables of one recipe into a third, by content id."""
    merged = merge(_read(a), _read(b))
    merged.write(output)
    out.print(f"{output}: " + ", ".join(f"{n} {what}" for what, n in exchange.counts(merged).items()))


@app.command("diff")
def diff(a: Path, b: Path, json: Json = False) -> None:
    """Compare two tables, also of different recipes: what only one has, and the ratio of what both have."""
    first, second = _read(a), _read(b)
    comparison = exchange.compare(first, second)
    if json:
        print_json(comparison)
        return
    out.print(
        f"only in {a}: {comparison['only_a']}; only in {b}: {comparison['only_b']}; in both: {comparison['both']}"
    )
    if comparison["both"]:
        q = comparison["ratio_quantiles"]
        out.print(f"ratio {b} / {a}: median {q['0.5']:.3g}, 10 % {q['0.1']:.3g}, 90 % {q['0.9']:.3g}")
        for difference in comparison["recipe"]:
            out.print(f"recipe differs: {difference}")
        told_a, told_b = first.recipe.fidelity.metric, second.recipe.fidelity.metric
        known = first.workloads
        rows = [
            (
                describe(known[s]) if (s := r["subject"]) in known else r["what"],
                metric(told_a, r["a"]),
                metric(told_b, r["b"]),
                f"{r['ratio']:.2f}",
            )
            for r in comparison["rows"][:20]
        ]
        print_table("largest changes", ("workload", "a", "b", "b/a"), rows, right=("a", "b", "b/a"))


@app.command("import")
def import_table(
    source: Annotated[
        str, typer.Argument(metavar="FORMAT", help="csv: columns candidate and one metric with its unit.")
    ],
    path: Path,
) -> None:
    """Check a file of measurements that were not taken by hwnas, and say what it holds; `hwnas fit` then reads it."""
    from hwnas.tables.importers import read_measurements

    if source != "csv":
        raise typer.BadParameter(f"{source!r} is not a known format; known is csv", param_hint="FORMAT")
    found = read_measurements(path)
    out.print(f"{path}: {len(found.candidates)} candidates")
    for name, values in found.metrics.items():
        known = [v for v in values if v is not None]
        out.print(f"  {name}: {len(known)} measured, {len(values) - len(known)} not measurable")


@app.command("export")
def export(path: Path, parquet: Annotated[Path, typer.Option("--parquet", help="The Parquet file to write.")]) -> None:
    """Export the measured rows as Parquet, one row a measurement (needs pyarrow: pip install hwnas\\[parquet])."""
    count = exchange.write_parquet(_read(path), parquet)
    out.print(f"{parquet}: {count} rows")
