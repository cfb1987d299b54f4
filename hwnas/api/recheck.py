"""Verifying a finished run again: its finalists, measured now, against its budget and their estimates."""

from __future__ import annotations

import json
from pathlib import Path

from hwnas import registry
from hwnas.api.bundles import Checked
from hwnas.api.pieces import lenient, load_device, load_toolchain
from hwnas.core.estimate import METRIC_KIND, Budget
from hwnas.deploy.measurer import Bench
from hwnas.deploy.verify import footprint, judge, run_values, spaced_readings
from hwnas.errors import DataError
from hwnas.graph.load import load_onnx
from hwnas.profiling.subjects import reference_workload
from hwnas.report.numbers import metric_label
from hwnas.report.record import Finalist, RunRecord
from hwnas.units import show


def verify_run(folder: Path, top: int | None = None, tolerance: float = 0.1, readings: int = 9) -> list[Checked]:
    """Build and measure the run's finalists (the `top` most accurate) again. Raises DataError, DeviceError, BuildError."""
    record = RunRecord.read(folder / "record.json")
    try:
        ids = {f["encoded"]: f["id"] for f in json.loads((folder / "finalists.json").read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"holds no finalists ({error})", path=folder / "finalists.json") from error
    device = lenient(load_device(record.device))
    chosen = sorted(record.finalists, key=_accuracy, reverse=True)[:top]
    budget = Budget(confidence=record.confidence).model_copy(update={str(m): v for m, v in record.budget.items()})
    found: list[Checked] = []
    with Bench(device, load_toolchain(record.toolchain.name, device), registry.runners.load(device.runner)()) as bench:
        networks = {f.encoded: load_onnx(folder / "finalists" / f"{ids[f.encoded]}.onnx") for f in chosen}
        artifacts = {name: bench.build(network) for name, network in networks.items()}
        footprints = {name: footprint(artifacts[name], n, bench.toolchain.rules) for name, n in networks.items()}
        visits = spaced_readings(
            bench.board, device, artifacts, bench.build(reference_workload(device)), readings=readings
        )
    kind = METRIC_KIND[device.metric]
    for finalist in chosen:
        estimate = finalist.estimate.get(device.metric)
        told = estimate[0] if estimate else None
        verdict = judge(finalist.encoded, visits[finalist.encoded], device.metric, told, tolerance)
        values: dict[str, float | None] = {
            **footprints[finalist.encoded],
            **run_values(device, verdict, visits[finalist.encoded], budget.confidence),
        }
        violations = budget.violations(values)
        fits = all(v <= 0 for v in violations.values())
        off = "no estimate" if verdict.error is None else f"estimate off by {100 * verdict.error:+.1f} %"
        found.append(
            Checked(
                name=("winner " if finalist.winner else "") + finalist.encoded,
                promised=f"{'meets' if finalist.meets_budget else 'misses'} {budget}; estimate within {100 * tolerance:g} %",
                found=f"{metric_label(device.metric, device.fidelity)} {show(verdict.median, kind)} (highest {show(max(verdict.readings), kind)}), {off}",
                kept=(fits or not finalist.meets_budget) and verdict.within is not False,
            )
        )
    return found


def _accuracy(finalist: Finalist) -> float:
    return sum(finalist.val_accuracies) / max(1, len(finalist.val_accuracies))
