"""From a run's outcome to the record that the report is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hwnas import __version__
from hwnas.accuracy.table import AccuracyTable, test_retest
from hwnas.accuracy.training import Training
from hwnas.api.judging import Outcome
from hwnas.api.pieces import breakdown, load_toolchain
from hwnas.api.run import Run, now
from hwnas.core.device import Device
from hwnas.core.price import read_price
from hwnas.deploy import finalists
from hwnas.deploy.agreement import Agreement
from hwnas.graph.describe import describe
from hwnas.predictors.network import NetworkPredictor
from hwnas.report.record import (
    Breakdown,
    Curve,
    Finalist,
    Kernel,
    Noise,
    PredictorQuality,
    RecordedTrial,
    Regret,
    RunRecord,
    ToolchainResult,
    UsedToolchain,
)


def record_of(
    run: Run,
    outcome: Outcome,
    accuracies: AccuracyTable,
    regret: Sequence[Regret] | None = None,
    notes: Sequence[str] = (),
) -> RunRecord:
    """Everything the report tells about a run."""
    best = outcome.winner
    on_front = tuple(t.number for t in outcome.result.front)
    settings, dataset = run.settings, run.dataset
    agreement = test_retest(accuracies, dataset.digest, settings.accuracy.plan.digest, settings.search.seed)
    predictor = NetworkPredictor.from_json(json.loads((run.folder / "predictor.json").read_text()))
    network = best.trained.deployed(settings.precision, dataset.train.inputs, run.device)
    kernels = breakdown(network, predictor, load_toolchain(best.artifact.toolchain, run.device).rules)
    fastest = min((c.geometric_mean for c in outcome.compared), default=1.0)
    return RunRecord(
        title=f"{run.space.name} on {run.device.name}",
        created=now(),
        hwnas=__version__,
        device=run.device.name,
        machine=outcome.machine,
        fidelity=run.device.fidelity,
        toolchain=UsedToolchain(
            name=best.artifact.toolchain, version=best.artifact.version, schedule=best.artifact.schedule
        ),
        space=run.space.id,
        data=dataset.name,
        seed=run.settings.search.seed,
        strategy=run.settings.search.use,
        objective=run.device.metric,
        budget=dict(outcome.budget.limits()),
        confidence=outcome.budget.confidence,
        settings=run.settings.model_dump(mode="json", by_alias=True),
        trials=tuple(
            RecordedTrial(
                number=t.number,
                encoded=t.encoded,
                accuracy=t.accuracy,
                feasible=t.feasible,
                estimates={m: tuple(v) for m, v in t.estimates.items()},
                measured=dict(t.measured),
                screened_loss=t.extras.get("screened"),
            )
            for t in outcome.result.trials
        ),
        front=on_front,
        finalists=tuple(_finalist(f, f is best, len(dataset.test)) for f in outcome.finalists),
        predictor=_quality(predictor),
        breakdown=Breakdown(
            kernels=tuple(Kernel(op=describe(w), count=n, total=s, source=source) for w, n, s, source in kernels),
            metric=best.verdict.metric,
            end_to_end=best.verdict.median,
            parts={} if run.device.accelerator is None else read_price(Path(best.artifact.path)).parts,
        ),
        toolchains=tuple(
            ToolchainResult(
                name=c.name,
                version=c.version,
                schedule=c.schedule,
                networks=len(c.values),
                geometric_mean=c.geometric_mean,
                ratio=c.geometric_mean / fastest,
            )
            for c in outcome.compared
            if c.values
        ),
        noise=None if agreement is None else Noise(kendall=agreement.tau, pairs=agreement.n),
        regret_bench=None if regret is None else tuple(regret),
        notes=(
            *notes,
            _agreement_note(outcome.agreement, run.device),
            *(f"{c.name} was left out of the comparison: {c.reason}" for c in outcome.compared if c.reason),
        ),
    )


def _finalist(found: finalists.Finalist, is_winner: bool, test_samples: int) -> Finalist:
    trained = found.trained
    return Finalist(
        encoded=trained.encoded,
        winner=is_winner,
        val_accuracies=trained.val_accuracies,
        test_accuracy=found.test_accuracy,
        test_samples=test_samples,
        estimate={m: (float(mean), float(high)) for m, (mean, high) in found.estimates.items()},
        readings={found.verdict.metric: found.verdict.readings},
        measured={m: v for m, v in found.values.items() if m != found.verdict.metric},
        meets_budget=found.meets_budget,
        violations=dict(found.violations),
        curves=tuple(_curve(seed, training) for seed, training in trained.curves),
    )


def _agreement_note(found: Agreement, device: Device) -> str:
    computed = (
        f"of the TFLite file for {device.name}, in LiteRT," if device.runner == "simulator" else f"on {device.name}"
    )
    return (
        f"outputs {computed} against onnxruntime here, {found.inputs} test inputs: {found.identical} identical, largest "
        f"difference {found.difference:.1e}; accuracy {100 * found.device_accuracy:.1f} % there, "
        f"{100 * found.host_accuracy:.1f} % here"
    )


def _curve(seed: int, training: Training) -> Curve:
    return Curve(seed=seed, losses=training.losses, val_accuracies=training.val_accuracies)


def _quality(predictor: NetworkPredictor) -> PredictorQuality | None:
    if predictor.error is None or not len(predictor.points):
        return None
    return PredictorQuality(
        metric=predictor.metric,
        networks=predictor.error.networks,
        mape=predictor.error.mape,
        points=tuple((float(p), float(m)) for p, m in predictor.points),
        bound_ratio=predictor.upper_factor(0.9),
    )
