"""A run: from run.yaml to a network that is measured, exported and within budget, in one folder that can be resumed.

Each stage leaves a file and is skipped when that is there, so a killed run goes on where it was and ends as an
undisturbed one would, up to measured values:

    run.yaml          the settings, every default filled in
    start.json        what was decided before the search: toolchain, budget in numbers, versions
    predictor.json    the hardware predictor that the search starts with
    search-N.jsonl    the journal of round N;  accuracy.jsonl  every training
    verdicts-N.json   what the device said of the finalists of round N
    agreement.json    the winner's outputs on the device, against this computer's
    finalists/        the networks that were trained fully, as ONNX, and built
    bundle/           the winner;  record.json, report.html  what happened
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hwnas import registry
from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.pool import TrainingPool
from hwnas.accuracy.table import AccuracyTable
from hwnas.accuracy.trained import TrainedAccuracy, require_fit
from hwnas.accuracy.training import Training
from hwnas.api.judging import Outcome, StageBegan, agreed, judged
from hwnas.api.pieces import (
    accelerator_uses,
    estimator,
    load_device,
    load_toolchain,
    plan_profile,
    require_precision,
    with_cpu_fallback,
)
from hwnas.api.settings import RunSettings
from hwnas.config import validate
from hwnas.core.device import Device
from hwnas.core.estimate import Budget, Metric
from hwnas.core.interfaces import BatchSpace
from hwnas.core.trial import SearchResult
from hwnas.core.workload import Candidate
from hwnas.deploy.bundle import require_form
from hwnas.deploy.finalists import (
    winner,
)
from hwnas.deploy.measurer import Bench, measure_candidates
from hwnas.deploy.toolchains import Compared, compare_toolchains
from hwnas.errors import ConfigError, NoFeasibleCandidate
from hwnas.predictors.fit import fit_network
from hwnas.predictors.network import NetworkPredictor
from hwnas.profiling.profiler import Event as ProfileEvent
from hwnas.profiling.subjects import untrained
from hwnas.records import write_atomically
from hwnas.report.record import Regret, RunRecord
from hwnas.runners.litert import require_litert
from hwnas.search.events import Event as SearchEvent
from hwnas.search.events import Finished as SearchFinished
from hwnas.search.loop import search
from hwnas.tables.table import LatencyTable

SAMPLED = 4000
"""Candidates whose estimates define a budget given as a percentile."""
SEARCH_BATCH = 4
"""Candidates that go on to training before the strategy learns from them: two for each training process."""
COMPARED = 3
"""Networks that the toolchains are compared on."""


RunEvent: TypeAlias = StageBegan | ProfileEvent | SearchEvent | Outcome


class Run:
    """A run in a folder. `events()` does the work; raises ConfigError, NoFeasibleCandidate, DeviceError, BuildError."""

    def __init__(self, settings: RunSettings, folder: Path, tables: Path | None = None) -> None:
        self.settings, self.folder = settings, folder
        self.tables = tables or folder / "tables"
        device = load_device(settings.device)
        self.device = with_cpu_fallback(device) if settings.allow_cpu_fallback else device
        space = registry.spaces.load(settings.space.use)(**settings.space.settings)
        if not isinstance(space, BatchSpace):
            raise ConfigError(f"space {space.name!r} does not handle batches", key="space.use")
        self.space: BatchSpace = space
        self.dataset = load_dataset({"use": settings.data.use, **settings.data.settings})
        self.runner = registry.runners.load(self.device.runner)()
        self._check()
        self._claim()

    def _check(self) -> None:
        """Raises ConfigError, DeviceUnavailable for what could only fail later, before the folder is theirs."""
        require_fit(self.space, self.dataset)
        check_device(self.settings, self.device)
        if self.device.runner == "simulator":  # the winner's outputs come from there
            require_litert()

    def _claim(self) -> None:
        """Write the resolved settings, or check that the folder is of the same run."""
        path = self.folder / "run.json"
        mine = self.settings.model_dump(mode="json", by_alias=True)
        if path.exists():
            theirs = json.loads(path.read_text())
            if theirs != mine:
                changed = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
                raise ConfigError(
                    f"{self.folder} holds a run with other settings ({', '.join(changed)}); "
                    "use another folder, or change the settings back to resume it"
                )
            return
        write_atomically(path, json.dumps(mine, indent=1, sort_keys=True) + "\n")

    @classmethod
    def reopen(cls, folder: Path) -> Run:
        """The run that a folder holds. Raises ConfigError if it holds none."""
        path = folder / "run.json"
        if not path.exists():
            raise ConfigError(f"{folder} holds no run (no run.json)")
        return cls(validate(RunSettings, json.loads(path.read_text()), path), folder)

    def events(self) -> Generator[RunEvent, None, None]:
        """The whole run; the last event is its Outcome. Closing the generator closes device, trainings and files."""
        settings = self.settings
        with ExitStack() as stack:
            accuracy = self._accuracy(stack)
            yield StageBegan("toolchains", "the same networks through each")
            start = self._start()
            toolchain = load_toolchain(start["toolchain"], self.device)
            yield StageBegan("profile", f"{self.device.name} through {toolchain.name}")
            yield from self._profile(toolchain.name)
            predictor = self._fitted()
            budget = self._budget(start, toolchain.name, predictor)
            bench = stack.enter_context(Bench(self.device, toolchain, self.runner))
            estimates = estimator(
                self.space,
                self.device,
                predictor=predictor,
                toolchain=toolchain.name,
                confidence=budget.confidence,
                precision=settings.precision,
            )
            measure = None
            if settings.search.device_measurements:
                measure = measure_candidates(bench, self.space, settings.precision)
            for number in range(settings.verify.rounds):
                yield StageBegan("search", f"round {number + 1}: {budget}" if number else str(budget))
                result: SearchResult | None = None
                for event in search(
                    self.space,
                    budget,
                    strategy=settings.search.use,
                    accuracy=accuracy,
                    screen=self._screen(accuracy),
                    screen_ratio=settings.accuracy.screen,
                    estimator=estimates,
                    measure=measure,
                    trials=settings.search.trials,
                    accuracy_queries=settings.accuracy.queries,
                    device_measurements=settings.search.device_measurements,
                    objectives=settings.minimised(self.device),
                    seed=settings.search.seed + number,
                    journal=self.folder / f"search-{number + 1}.jsonl",
                    batch=SEARCH_BATCH,
                    context={
                        "device": self.device.digest,
                        "toolchain": toolchain.name,
                        "data": self.dataset.digest,
                        "plan": settings.accuracy.plan.digest,
                    },
                ):
                    yield event
                    if isinstance(event, SearchFinished):
                        result = event.result
                assert result is not None
                verdicts = self.folder / f"verdicts-{number + 1}.json"
                finalists = yield from judged(self, accuracy, bench, result, budget, estimates.estimate, verdicts)
                queried = [t.candidate for t in result.trials if t.accuracy is not None]
                seeds = {f.trained.candidate.id: [seed for seed, _ in f.trained.curves] for f in finalists}
                believed = dict(zip([c.id for c in queried], accuracy.believed(queried, seeds)))
                best = winner(finalists, believed)
                if best is not None:
                    machine = str(bench.board.facts()["machine"])
                    found = yield from agreed(self, bench, best)
                    yield from self._retest(accuracy, result)
                    yield Outcome(tuple(finalists), best, result, budget, self._compared(), number + 1, found, machine)
                    return
                for finalist in finalists:  # reality corrects the predictor, and the search goes on
                    estimates.learn(finalist.trained.candidate, finalist.values)
            closest = min(finalists, key=lambda f: max(f.violations.values()))
            raise NoFeasibleCandidate(closest.trained.encoded, dict(closest.violations))

    def _accuracy(self, stack: ExitStack) -> TrainedAccuracy:
        settings = self.settings
        pool = stack.enter_context(TrainingPool(checkpoints=self.folder / "checkpoints"))
        table = stack.enter_context(AccuracyTable.open(self.folder / "accuracy.jsonl"))
        return TrainedAccuracy(self.space, self.dataset, settings.accuracy.plan, table, pool, seed=settings.search.seed)

    def _start(self) -> dict[str, Any]:
        """What is decided once: the toolchain. Kept, because a second comparison might decide otherwise."""
        path = self.folder / "start.json"
        if path.exists():
            document: dict[str, Any] = json.loads(path.read_text())
            return document
        if (only := self._only_toolchain()) is not None:
            start: dict[str, Any] = {"toolchain": only, "compared": []}
        else:
            rng = np.random.default_rng(self.settings.search.seed)
            networks = [untrained(self.space, self.space.sample(rng), self.settings.precision) for _ in range(COMPARED)]
            chains = [load_toolchain(name, self.device) for name in self.device.toolchains]
            compared = compare_toolchains(self.device, self.runner, chains, networks)
            if not compared[0].values:
                raise ConfigError(f"no toolchain of {self.device.name} works: {compared[0].reason}", key="toolchain")
            start = {"toolchain": compared[0].name, "compared": [asdict(c) for c in compared]}
        write_atomically(path, json.dumps(start, indent=1) + "\n")
        return start

    def _only_toolchain(self) -> str | None:
        """The toolchain that is named, or the only one there is; None where they have to be compared."""
        if self.settings.toolchain != "auto":
            return self.settings.toolchain
        return self.device.toolchains[0] if len(self.device.toolchains) == 1 else None

    def _compared(self) -> tuple[Compared, ...]:
        start = json.loads((self.folder / "start.json").read_text())
        return tuple(Compared(**{**c, "values": tuple(c["values"])}) for c in start["compared"])

    def _profile(self, toolchain: str) -> Iterator[ProfileEvent]:
        wanted = self.settings.profile
        todo = plan_profile(
            self.device,
            self.space,
            toolchain=toolchain,
            workloads=wanted.workloads,
            networks=wanted.networks,
            tables=self.tables,
            seed=self.settings.search.seed,
            precision=self.settings.precision,
        )
        self.table_path = todo.table
        if todo.plan.left and not (self.folder / "predictor.json").exists():
            yield from todo.events()

    def _fitted(self) -> NetworkPredictor:
        """The predictor that the search starts with; made once, then read, because the table may have grown since."""
        path = self.folder / "predictor.json"
        if not path.exists():
            fit_network(LatencyTable.read(self.table_path), self.device, seed=self.settings.search.seed).save(path)
        return NetworkPredictor.from_json(json.loads(path.read_text()))

    def _budget(self, start: dict[str, Any], toolchain: str, predictor: NetworkPredictor) -> Budget:
        """The budget in numbers; percentiles are of the space as estimated when the run started."""
        percentiles = self.settings.budget.percentiles()
        if "limits" not in start:
            sampled = self.space.sample_batch(SAMPLED, np.random.default_rng(self.settings.search.seed))
            found = estimator(
                self.space,
                self.device,
                predictor=predictor,
                toolchain=toolchain,
                precision=self.settings.precision,
            ).estimate(sampled)
            for metric in percentiles:
                if metric not in found:
                    raise ConfigError(f"no estimate of {metric} for {self.device.name}", key=f"budget.{metric}")
            start["limits"] = {m: float(np.percentile(found[m][:, 0], p)) for m, p in percentiles.items()}
            write_atomically(self.folder / "start.json", json.dumps(start, indent=1) + "\n")
        return self._within_memory(self.settings.budget.resolve(start["limits"]))

    def _within_memory(self, budget: Budget) -> Budget:
        """The budget, held to the device's own memory where the settings name no limit: flash and RAM of a
        microcontroller, SRAM of an accelerator."""
        if self.device.mcu is not None:
            uses: tuple[str, ...] = ("flash", "ram")
        else:
            uses = tuple(use for use in accelerator_uses(self.device) if use == "sram")
        sizes = {use: memory.size for use in uses if (memory := self.device.memory(use)) is not None}
        limits = {use: size for use, size in sizes.items() if size is not None and getattr(budget, use) is None}
        return budget.model_copy(update=limits)

    def _screen(self, accuracy: TrainedAccuracy) -> Any:
        """The loss after one epoch, lower is better: the cheapest look at a candidate that is worth its time.

        Source: Ru et al., "Speedy Performance Estimation for Neural Architecture Search", NeurIPS 2021.
        """
        if self.settings.accuracy.screen == 1:
            return None

        def losses(candidates: Sequence[Candidate]) -> list[float]:
            rows = accuracy.rows(candidates, until_epoch=1)
            results = [row.result for row in rows]
            return [r.losses[0] if isinstance(r, Training) and r.losses else float("inf") for r in results]

        return losses

    def _retest(self, accuracy: TrainedAccuracy, result: SearchResult) -> Iterator[RunEvent]:
        """Train some candidates on a second seed, to know how far one accuracy can be trusted."""
        count = self.settings.accuracy.retest
        queried = [t for t in result.trials if t.accuracy is not None]
        if not count or not queried:
            return
        first = [t.candidate for t in queried[:count]]  # the first are random, and so not all alike
        yield StageBegan("retest", f"{len(first)} candidates on a second seed")
        accuracy.rows(first, [accuracy.seed + 1])


def finish(run: Run, outcome: Outcome, regret: Sequence[Regret] | None = None, notes: Sequence[str] = ()) -> RunRecord:
    """Write the winner's bundle and the record of the run."""
    from hwnas.api.bundles import bundle_outcome
    from hwnas.api.record import record_of

    manifest = bundle_outcome(run, outcome, run.folder / "bundle")
    left_out = json.loads(manifest.read_text())["left_out"]
    notes = (*notes, *(f"the bundle has no {name} form: {reason}" for name, reason in left_out.items()))
    with AccuracyTable.open(run.folder / "accuracy.jsonl") as table:
        record = record_of(run, outcome, table, regret, notes)
    record.write(run.folder / "record.json")
    return record


def check_device(settings: RunSettings, device: Device) -> None:
    """Raises ConfigError where the device cannot do what the settings ask for."""
    if settings.toolchain != "auto":
        load_toolchain(settings.toolchain, device)
    require_precision(device, settings.precision)
    for form in settings.export or ():
        require_form(form, device)
    known = told(device)
    for metric in dict.fromkeys((*settings.budget.given(), *settings.minimised(device))):
        if metric not in known:
            raise ConfigError(f"nothing measures {metric} on {device.name}; it tells {', '.join(known)}", key=metric)


def told(device: Device) -> tuple[Metric, ...]:
    """Metrics that a run can hold a budget against on a device: those that `measure_networks` knows."""
    known = {device.metric, *device.derived, "flash", "ram", "params", "macs", *accelerator_uses(device)}
    return tuple(m for m in Budget.METRICS if m in known)


def now() -> str:
    """The time for records, UTC to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
