"""`hwnas fit`, `estimate` and `proxies`: predictors, and what they say of networks and candidates."""

from __future__ import annotations

import csv
import io
import json as jsonlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from hwnas import api
from hwnas.cli.profile import FALLBACK_HELP, PRECISION_HELP, SHAPE_HELP, precision_of, settings_of, shapes_of
from hwnas.cli.render import log, out, print_json, print_table
from hwnas.cli.render import metric as render_metric
from hwnas.core.device import Device
from hwnas.core.interfaces import BatchSpace, Toolchain
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, DataError
from hwnas.graph.describe import describe
from hwnas.graph.load import load_onnx
from hwnas.graph.precision import Precision
from hwnas.predictors.network import NetworkPredictor
from hwnas.records import write_atomically
from hwnas.tables.importers import read_measurements
from hwnas.tables.table import LatencyTable, table_path

if TYPE_CHECKING:
    from onnx import ModelProto

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A setting of the space, key=value; may repeat.")]


def fit(
    table: Annotated[Path | None, typer.Argument(help="A latency table.")] = None,
    measurements: Annotated[Path | None, typer.Option(help="CSV: column candidate, and one column a metric.")] = None,
    space: Annotated[str | None, typer.Option(help="The space of the candidates in --measurements.")] = None,
    setting: Setting = None,
    metric: Annotated[
        str | None, typer.Option(help="latency, energy, instructions ...; default: what the table is of.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="The predictor's file.")] = Path("predictor.json"),
) -> None:
    """Fit a predictor to a latency table, or to measurements of whole candidates."""
    if (table is None) == (measurements is None):
        raise ConfigError("name either a latency table or --measurements")
    if table is not None:
        predictor = api.fit(table, metric=metric, seed=seed)
        predictor.save(output)
        error = predictor.error
        known = "not calibrated: the table holds too few whole networks" if error is None else (
            f"out-of-fold error {100 * error.mape:.1f} % on {error.networks} whole networks"
        )  # fmt: skip
        out.print(f"{output}: {predictor.fidelity.of(predictor.metric)} {predictor.metric}, {known}")
        return
    assert measurements is not None
    if space is None:
        raise ConfigError("--measurements needs --space, to read the candidates")
    found, metric = read_measurements(measurements), metric or "latency"
    if metric not in found.metrics:
        raise DataError("has no such metric", path=measurements, given=metric, allowed=found.metrics)
    where = api.load_space(space, **settings_of(setting))
    candidates = [where.parse(text) for text in found.candidates]
    stack = api.fit_measurements(where, candidates, found.metrics[metric], seed)
    stack.save(output)
    out.print(f"{output}: {metric} of {len(candidates)} measured candidates of {where.name}")


def estimate(
    network: Annotated[Path | None, typer.Argument(help="An ONNX file.")] = None,
    device: Annotated[str | None, typer.Option(help="The device.")] = None,
    space: Annotated[str | None, typer.Option(help="Estimate candidates of this space.")] = None,
    setting: Setting = None,
    candidates: Annotated[Path | None, typer.Option(help="CSV with a column candidate.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE_HELP)] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="A predictor's file; default: fitted from the device's table.")
    ] = None,
    tables: Annotated[Path, typer.Option("--table", help="The folder of tables.")] = api.TABLES,
    toolchain: Annotated[str | None, typer.Option(help="The toolchain; default: the device's first.")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="CSV: candidate,mean,low,high.")] = None,
    precision: Annotated[str | None, typer.Option(help=PRECISION_HELP)] = None,
    allow_cpu_fallback: Annotated[bool, typer.Option("--allow-cpu-fallback", help=FALLBACK_HELP)] = False,
    json: Json = False,
) -> None:
    """Estimate what a run of a network, or of many candidates, takes on a device, without running them."""
    if network is not None:
        if device is None:
            raise ConfigError("a network needs --device")
        target = api.load_device(device)
        target = api.with_cpu_fallback(target) if allow_cpu_fallback else target
        _estimate_network(
            load_onnx(network, shapes_of(shape)), network.name, target, predictor, tables, toolchain, json
        )
    elif space is not None and candidates is not None:
        where = api.load_space(space, **settings_of(setting))
        texts = _candidates(candidates)
        found = [where.parse(text) for text in texts]
        if not isinstance(where, BatchSpace):
            raise ConfigError(f"space {where.name!r} does not handle batches")
        rows = _predict(where, found, device, predictor, tables, toolchain, precision_of(precision))
        lines = [["candidate", "mean", "low", "high"]]
        lines += [[t, *(f"{v:.9g}" for v in row)] for t, row in zip(texts, rows)]
        _write_csv(lines, output)
    else:
        raise ConfigError("name an ONNX file, or --space with --candidates")


def proxies(
    space: Annotated[str, typer.Option(help="The candidates' space.")],
    candidates: Annotated[Path, typer.Option(help="CSV with a column candidate.")],
    data: Annotated[str, typer.Option(help="A data set, such as mnist-5k.")],
    setting: Setting = None,
    names: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of weights and batch.")] = 0,
    output: Annotated[Path | None, typer.Option("--out", help="CSV; default: standard output.")] = None,
) -> None:
    """Score candidates without training them."""
    from hwnas import registry
    from hwnas.accuracy.datasets import load_dataset
    from hwnas.accuracy.proxies import score_proxies

    where = api.load_space(space, **settings_of(setting))
    texts = _candidates(candidates)
    chosen = [n for n in names.split(",") if n] or registry.proxies.names()
    scores = score_proxies(where, [where.parse(t) for t in texts], load_dataset(data), chosen, seed)
    _write_csv([["candidate", *chosen], *([t, *(f"{v:.9g}" for v in row)] for t, row in zip(texts, scores))], output)


def load_network_predictor(path: Path) -> NetworkPredictor:
    """A predictor that was fitted to a latency table. Raises DataError."""
    try:
        return NetworkPredictor.from_json(jsonlib.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"is not a saved predictor ({error})", path=path) from error


def _is_stack(path: Path) -> bool:
    """Whether a saved predictor was fitted to measurements of whole candidates."""
    from hwnas.predictors.stack import KIND

    try:
        return bool(jsonlib.loads(path.read_text()).get("kind") == KIND)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"is not a saved predictor ({error})", path=path) from error


def _estimate_network(
    model: ModelProto,
    name: str,
    target: Device,
    predictor: Path | None,
    tables: Path,
    toolchain: str | None,
    json: bool,
) -> None:
    if predictor and _is_stack(predictor):
        raise ConfigError(f"{predictor} knows candidates of its space only, not any network")
    fitted, chain = _fitted(target, predictor, tables, toolchain)
    found = api.estimate(model, target, predictor=fitted, toolchain=chain.name)
    parts = api.breakdown(model, fitted, chain.rules)
    beside = fitted.others({w.id: n for w, n, _, _ in parts}, {w.id: w for w, _, _, _ in parts})
    if json:
        rows = [
            {"op": w.op, "what": describe(w), "count": n, "total": s, "source": source} for w, n, s, source in parts
        ]
        value = {"metric": fitted.metric, "mean": found.mean, "low": found.low, "high": found.high}
        also = {m: {"mean": e.mean, "low": e.low, "high": e.high, "fidelity": e.fidelity} for m, e in beside.items()}
        more = {"also": also} if also else {}
        print_json({**value, "source": found.source, "fidelity": found.fidelity, **more, "workloads": rows})
        return
    told = partial(render_metric, fitted.metric)
    out.print(
        f"{name} on {target.name} through {chain.name}: [bold]{told(found.mean)}[/] "
        f"({told(found.low)} to {told(found.high)} at 90 %), estimated from {found.source}, {found.fidelity}"
    )
    for metric, other in beside.items():
        kind = "a model over simulated traffic" if metric == "energy" else f"{fitted.metric} over the clock"
        mean, low, high = (render_metric(metric, v) for v in (other.mean, other.low, other.high))
        out.print(f"{metric} {mean} ({low} to {high} at 90 %), {kind}")
    unknown = [s for _, _, s, source in parts if source != "table"]
    if unknown and target.accelerator is not None:
        share = sum(unknown) / max(sum(s for _, _, s, _ in parts), 1e-30)
        out.print(
            f"{len(unknown)} kernels, {share:.0%} of the sum, are not in the table and were extrapolated: "
            f"hwnas price {name} --device {target.name} builds the network itself",
            soft_wrap=True,
        )
    shown = [(describe(w), n, told(s), source) for w, n, s, source in parts[:15]]
    print_table(
        "heaviest workloads, in isolation",
        ("kernel", "count", fitted.metric, "from"),
        shown,
        right=("count", fitted.metric),
    )


def _predict(
    space: BatchSpace,
    candidates: Sequence[Candidate],
    device: str | None,
    predictor: Path | None,
    tables: Path,
    toolchain: str | None,
    precision: Precision | None,
) -> np.ndarray:
    """mean, low, high of each candidate, n x 3."""
    if predictor and _is_stack(predictor):
        from hwnas.predictors.stack import NetworkStack

        found = NetworkStack.load(predictor, space).predict(candidates)
        return np.stack([found.mean, found.low, found.high], axis=1)
    if device is None:
        raise ConfigError("candidates need --device, or a --predictor that was fitted to measurements")
    target = api.load_device(device)
    fitted, chain = _fitted(target, predictor, tables, toolchain)
    estimator = api.estimator(space, target, predictor=fitted, toolchain=chain.name, precision=precision)
    return estimator.bounds(np.array([c.genotype for c in candidates]))


def _fitted(
    device: Device, predictor: Path | None, tables: Path, toolchain: str | None
) -> tuple[NetworkPredictor, Toolchain]:
    """The saved predictor and its toolchain, or one fitted now to the device's table of that toolchain."""
    if predictor:
        fitted = load_network_predictor(predictor)
        return fitted, api.load_toolchain(toolchain or fitted.workloads.toolchain or device.toolchains[0], device)
    chain = api.load_toolchain(toolchain or device.toolchains[0], device)
    path = table_path(tables, device.name, device.fidelity, chain.name, tuned=device.tuned(chain.name))
    if not path.exists():
        raise ConfigError(
            f"there is no table {path}; run: hwnas profile {device.name} --space SPACE --toolchain {chain.name}"
        )
    log.print(f"fitting {path}")
    return api.fit(LatencyTable.read(path), device=device), chain


def _candidates(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    if not rows or "candidate" not in rows[0]:
        raise DataError("needs a column 'candidate' and at least one row", path=path)
    return [row["candidate"] or "" for row in rows]


def _write_csv(lines: Sequence[Sequence[str]], path: Path | None) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    if path is None:
        typer.echo(text.getvalue(), nl=False)
    else:
        write_atomically(path, text.getvalue())
        out.print(f"{path}: {len(lines) - 1} rows")
