"""The last stages of a run: finalists trained and measured on the device, the winner's outputs compared."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.accuracy.trained import TrainedAccuracy
from hwnas.core.estimate import Budget
from hwnas.core.trial import SearchResult
from hwnas.deploy.agreement import IMAGES, Agreement, agreement
from hwnas.deploy.finalists import Finalist, finalist_from_json, finalist_json, measure_finalists, train_finalists
from hwnas.deploy.measurer import Bench
from hwnas.deploy.toolchains import Compared
from hwnas.errors import NoFeasibleCandidate
from hwnas.records import write_atomically

if TYPE_CHECKING:
    from hwnas.api.run import Run


@dataclass(frozen=True, slots=True)
class StageBegan:
    """A stage began; `detail` is for people."""

    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run ended: finalists of the last round, the winner, and what the record needs to know."""

    finalists: tuple[Finalist, ...]
    winner: Finalist
    result: SearchResult
    budget: Budget
    compared: tuple[Compared, ...]
    rounds: int
    agreement: Agreement
    machine: str


def judged(
    run: Run,
    accuracy: TrainedAccuracy,
    bench: Bench,
    result: SearchResult,
    budget: Budget,
    estimate: Any,
    verdicts: Path,
) -> Generator[StageBegan, None, list[Finalist]]:
    """Train and measure the best feasible candidates; what was measured before is read from `verdicts`."""
    verify = run.settings.verify
    known = [t for t in result.trials if t.accuracy is not None]
    believed = dict(zip([t.number for t in known], accuracy.believed([t.candidate for t in known])))
    pool = sorted((t for t in known if t.feasible), key=lambda t: (-believed[t.number], t.number))
    if not pool:
        closest = min(result.trials, key=lambda t: max(t.violations.values(), default=0.0))
        raise NoFeasibleCandidate(closest.encoded, dict(closest.violations))
    chosen = [t.candidate for t in pool[: verify.top]]
    seeds = [accuracy.seed + i for i in range(verify.seeds)]
    yield StageBegan("finalists", f"{len(chosen)} networks on {len(seeds)} seeds, then in full")
    trained = train_finalists(accuracy, chosen, seeds)
    folder = run.folder / "finalists"
    if verdicts.exists():
        measured = {v["id"]: v for v in json.loads(verdicts.read_text())}
        if measured.keys() == {t.candidate.id for t in trained}:
            return [finalist_from_json(measured[t.candidate.id], t, budget, folder) for t in trained]
    yield StageBegan("verify", f"{verify.readings} spaced readings of each on {run.device.name}")
    table = estimate(np.array([c.genotype for c in chosen]))
    estimates: dict[str, dict[str, tuple[float, float]]] = {
        c.id: {m: (float(v[i, 0]), float(v[i, 1])) for m, v in table.items()} for i, c in enumerate(chosen)
    }
    finalists = measure_finalists(
        bench,
        trained,
        budget,
        estimates=estimates,
        folder=folder,
        readings=verify.readings,
        spacing_s=verify.spacing,
        tolerance=verify.tolerance,
        precision=run.settings.precision,
        calibration=run.dataset.train.inputs,
        test=(run.dataset.test.inputs, run.dataset.test.labels),
    )
    index = [
        {
            "id": t.candidate.id,
            "encoded": t.encoded,
            "test_accuracy": f.test_accuracy,
            "meets_budget": f.meets_budget,
        }
        for t, f in zip(trained, finalists)
    ]
    for t in trained:
        deployed = t.deployed(run.settings.precision, run.dataset.train.inputs, run.device)
        (folder / f"{t.candidate.id}.onnx").write_bytes(deployed.SerializeToString())
    write_atomically(run.folder / "finalists.json", json.dumps(index, indent=1) + "\n")
    write_atomically(verdicts, json.dumps([finalist_json(f) for f in finalists], indent=1) + "\n")
    return finalists  # the value of `yield from`


def agreed(run: Run, bench: Bench, best: Finalist) -> Generator[StageBegan, None, Agreement]:
    """The winner's outputs on the device against this computer's, on test images; kept in agreement.json."""
    path = run.folder / "agreement.json"
    if path.exists():
        known = json.loads(path.read_text())
        if known.pop("id") == best.trained.candidate.id:
            return Agreement(**known)
    test = run.dataset.test
    where = "in LiteRT" if run.device.runner == "simulator" else f"on {run.device.name}"
    yield StageBegan("agreement", f"{min(IMAGES, len(test))} test inputs {where} and here")
    network = best.trained.deployed(run.settings.precision, run.dataset.train.inputs, run.device)
    found = agreement(bench.board, best.artifact, network, test.inputs, test.labels, run.device.protocol.timeout)
    write_atomically(path, json.dumps({"id": best.trained.candidate.id, **asdict(found)}, indent=1) + "\n")
    return found
