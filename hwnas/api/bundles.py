"""Bundles of a run: write the winner's, check one again from its own files, export a candidate in a format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwnas import __version__, registry
from hwnas.api.judging import Outcome
from hwnas.api.pieces import lenient, load_device, load_toolchain, with_cpu_fallback
from hwnas.api.run import Run, now
from hwnas.core.artifact import read_artifact
from hwnas.core.estimate import METRIC_KIND, Budget, Metric
from hwnas.core.measurement import Fidelity
from hwnas.deploy.agreement import Agreement, accuracy_of, agreement
from hwnas.deploy.bundle import (
    DEPLOYED,
    FORMATS,
    INT8,
    LIBRARY,
    MANIFEST,
    SAMPLE,
    TEST,
    Promise,
    default_formats,
    read_arrays,
    read_manifest,
    write_bundle,
    write_forms,
)
from hwnas.deploy.measurer import Bench
from hwnas.deploy.verify import footprint, judge, run_values, spaced_readings
from hwnas.errors import ConfigError, DataError
from hwnas.graph.load import load_onnx
from hwnas.graph.precision import Precision
from hwnas.profiling.subjects import reference_workload
from hwnas.report.numbers import ON_DEVICE
from hwnas.units import show

CLOSE = 1e-3
"""Largest difference of an output from the bundled one that is still the same network (float order differs)."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A bundle's promise held against its own files: what was promised, what was found, and whether that is kept."""

    name: str
    promised: str
    found: str
    kept: bool


def bundle_outcome(run: Run, outcome: Outcome, into: Path) -> Path:
    """Write the winner's bundle, unless it is there already; returns its manifest's path."""
    best = outcome.winner
    dataset = run.dataset
    promise = Promise(
        candidate=best.trained.encoded,
        space=run.space.id,
        data=dataset.name,
        data_digest=dataset.digest,
        device=run.device.name,
        machine=outcome.machine,
        fidelity=run.device.fidelity,
        toolchain=best.artifact.toolchain,
        schedule=best.artifact.schedule,
        date=now(),
        budget=outcome.budget.limits(),
        confidence=outcome.budget.confidence,
        test_accuracy=best.test_accuracy,
        val_accuracies=best.trained.val_accuracies,
        precision=run.settings.precision,
        metric=best.verdict.metric,
        estimate=best.verdict.estimate,
        readings=best.verdict.readings,
        median=best.verdict.median,
        high=best.verdict.high(outcome.budget.confidence),
        agreement=outcome.agreement,
        values=dict(best.values),
        modelled=tuple(m for m in best.values if m in ON_DEVICE and run.device.fidelity.of(m) is Fidelity.MODEL),
    )
    with suppress(DataError):  # not there, not whole, or another network's: it is written anew
        known = read_manifest(into)
        if known.promise.model_copy(update={"date": promise.date}) == promise and known.hwnas == __version__:
            return into / MANIFEST
    return write_bundle(
        into,
        best.trained.network,
        device=run.device,
        promise=promise,
        calibration=dataset.train.inputs,
        test=(dataset.test.inputs, dataset.test.labels),
        formats=run.settings.export or default_formats(run.device),
    )


def check_bundle(folder: Path, readings: int = 9, spacing_s: float = 0.3) -> list[Checked]:
    """Re-check a bundle in fresh processes: files, outputs of every form, accuracy, readings on this device, budget.

    Raises DataError for a bundle that is not whole, DeviceError, BuildError.
    """
    manifest = read_manifest(folder)
    promise = manifest.promise
    device = lenient(load_device(promise.device))
    runner = registry.runners.load(device.runner)()
    network = load_onnx(folder / DEPLOYED[promise.precision])
    x, y = read_arrays(folder / TEST, ("x", "y"))
    example, expected = read_arrays(folder / SAMPLE, ("input", "output"))
    found = [Checked("files", f"{len(manifest.files)} files", "all there, none changed", True)]
    toolchain = load_toolchain(promise.toolchain, device)
    with Bench(device, toolchain, runner) as bench:
        artifact = bench.build(network)
        bench.board.stage([artifact])
        output = bench.board.outputs(artifact, [example], device.protocol.timeout)[0]
        found.append(_same("output", output, expected, max(CLOSE, promise.agreement.difference)))
        agreed = agreement(bench.board, artifact, network, x, y, device.protocol.timeout)
        found.append(
            _agreement(promise.agreement, agreed, "in LiteRT" if device.runner == "simulator" else "on the device")
        )
        host = accuracy_of(network, x, y)
        found.append(_accuracy("test accuracy", manifest.accuracy[promise.precision], host, len(y)))
        visits = spaced_readings(
            bench.board,
            device,
            {"it": artifact},
            bench.build(reference_workload(device)),
            readings=readings,
            spacing_s=spacing_s,
        )
        verdict = judge("it", visits["it"], device.metric, promise.estimate, 0.1)
        values: dict[str, float | None] = {str(metric): value for metric, value in promise.values.items()}
        values |= footprint(artifact, network, toolchain.rules)
        values |= run_values(device, verdict, visits["it"], promise.confidence)
        budget = Budget().model_copy(update={str(metric): limit for metric, limit in promise.budget.items()})
        violations = budget.violations(values)
        found.append(
            Checked(
                verdict.metric,
                f"{_shown(promise.metric, promise.median)} {promise.fidelity.participle} on {promise.date}",
                f"{_shown(verdict.metric, verdict.median)}, highest of {len(verdict.readings)} readings "
                f"{_shown(verdict.metric, max(verdict.readings))} ({device.fidelity})",
                True,
            )
        )
        found.append(Checked("budget", str(budget), _misses(violations), all(v <= 0 for v in violations.values())))
        if any(name.startswith(f"{LIBRARY}/") for name in manifest.files):
            compiled = read_artifact(folder / LIBRARY)
            bench.board.stage([compiled])
            output = bench.board.outputs(compiled, [example], device.protocol.timeout)[0]
            found.append(_same("output of the TVM library", output, expected))
    small = onnx.load(str(folder / INT8))
    found.append(_accuracy("int8 test accuracy", manifest.accuracy["int8"], accuracy_of(small, x, y), len(y)))
    return found


def export_candidate(run_folder: Path, candidate: str, formats: Sequence[str], into: Path) -> list[Path]:
    """Export a fully trained finalist of a run by its id or text. Raises ConfigError with what there is."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError("unknown format", key="--format", given=name, allowed=FORMATS)
    index = run_folder / "finalists.json"
    try:
        finalists = json.loads(index.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"holds no finalists yet ({error}); finish the search first", path=index) from error
    match = [f for f in finalists if candidate in (f["id"], f["encoded"]) or f["id"].startswith(candidate)]
    if len(match) != 1:
        known = ", ".join(f"{f['id'][:8]} ({f['encoded']})" for f in finalists)
        raise ConfigError(f"{candidate!r} names {len(match)} finalists; there are {known}", key="--candidate")
    source = run_folder / "finalists" / f"{match[0]['id']}.onnx"
    settings = json.loads((run_folder / "run.json").read_text())
    precision: Precision = settings["precision"]
    device = load_device(settings["device"])
    device = with_cpu_fallback(device) if settings.get("allow_cpu_fallback") else device
    return write_forms(load_onnx(source), formats, device, into, precision)


def checks_json(checks: Sequence[Checked]) -> list[dict[str, Any]]:
    """The checks as JSON."""
    return [asdict(c) for c in checks]


def _same(name: str, output: np.ndarray, expected: np.ndarray, close: float = CLOSE) -> Checked:
    if output.shape != expected.shape:
        return Checked(name, f"shape {expected.shape}", f"shape {output.shape}", False)
    difference = float(np.abs(output - expected).max())
    return Checked(name, f"within {close:g}", f"largest difference {difference:.1e}", difference <= close)


def _agreement(promised: Agreement, found: Agreement, where: str) -> Checked:
    def told(a: Agreement) -> str:
        accuracies = f"accuracy {100 * a.device_accuracy:.2f} % there and {100 * a.host_accuracy:.2f} % here"
        return f"{a.identical} of {a.inputs} identical, largest difference {a.difference:.1e}, {accuracies}"

    as_promised = found.difference <= promised.difference and found.identical >= promised.identical
    return Checked(f"outputs {where}", told(promised), told(found), found.difference <= CLOSE or as_promised)


def _shown(metric: Metric, value: float) -> str:
    return show(value, METRIC_KIND[metric])


def _accuracy(name: str, promised: float, found: float, n: int) -> Checked:
    # One sample may fall the other way where two outputs are equal to the last bit.
    return Checked(name, f"{100 * promised:.2f} % of {n}", f"{100 * found:.2f} %", abs(promised - found) <= 1.01 / n)


def _misses(violations: Mapping[str, float]) -> str:
    over = [f"{metric} over by {100 * v:.1f} %" for metric, v in violations.items() if v > 0]
    return ", ".join(over) or "met"
