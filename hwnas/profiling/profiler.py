"""The profiling loop: ask the plan, build, measure on the board, append the row, yield the event.

A row is on disk before its event is yielded, so stopping at any moment loses at most the measurement under way.
Each session starts and ends with a reference workload; if that drifted, the session's rows become failures of stage
`check` (by a check line; nothing is rewritten) and its subjects are measured again.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import __version__
from hwnas.core.device import Device
from hwnas.core.interfaces import Board, Runner, Toolchain
from hwnas.core.measurement import Context, Failure, Measurement, Samples
from hwnas.core.workload import Artifact, Network, Workload
from hwnas.errors import BuildError, DeviceError, DeviceQuarantined, MeasurementInvalid
from hwnas.profiling.measure import FIXED_READINGS, measure
from hwnas.profiling.plan import Plan, Subject, Uncertainty
from hwnas.tables.lines import Check, Recipe
from hwnas.tables.table import LatencyTable, TableFile
from hwnas.toolchains.builder import BuildPool

if TYPE_CHECKING:
    from onnx import ModelProto

BATCH = 16
"""Subjects built at a time, before the board measures them undisturbed."""
MAX_ATTEMPTS = 3
"""Sessions a subject may be part of before its drifting is taken as the answer."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session began: where rows go and how many subjects are left."""

    context: Context
    table: Path
    left: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A row was appended. `reading_share` is the readings taken over those of the fixed protocol, so far."""

    row: Measurement
    subject: Workload | Network
    left: int
    reading_share: float


@dataclass(frozen=True, slots=True)
class Checked:
    """A session ended; `passed` is False when its rows became failures."""

    check: Check
    given_back: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Why the loop ended: `done`, or `time` when the given time was used up."""

    reason: str
    rows: int
    failures: int
    reading_share: float


Event = Opened | Measured | Checked | Finished
Clock = Callable[[], float]


def recipe_of(device: Device, toolchain: Toolchain, artifact: Artifact, facts: Any) -> Recipe:
    """What every row of a table shares, from an artifact that this toolchain built for this device."""
    return Recipe(
        device=device.name,
        machine=str(facts["machine"]),
        fidelity=device.fidelity,
        toolchain=toolchain.name,
        toolchain_version=artifact.version,
        schedule=artifact.schedule,
        options=dict(artifact.options),
    )


class Profiler:
    """Measures subjects on one device with one toolchain into one table file."""

    def __init__(
        self,
        device: Device,
        toolchain: Toolchain,
        runner: Runner,
        reference: ModelProto,
        *,
        workers: int = 2,
        clock: Clock = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._device, self._toolchain, self._runner = device, toolchain, runner
        self._reference, self._workers, self._clock, self._now = reference, workers, clock, now
        self._taken = self._fixed = 0

    def run(
        self,
        plan: Plan,
        table: Path,
        *,
        uncertainty: Callable[[LatencyTable], Uncertainty | None] | None = None,
        for_s: float | None = None,
    ) -> Iterator[Event]:
        """Profile until the plan is through or `for_s` seconds are over. Raises DeviceError, TableConflict.

        Closing the generator closes board, builders and table.
        """
        deadline = None if for_s is None else self._clock() + for_s
        scratch = Path(tempfile.mkdtemp(prefix="hwnas-"))
        board: Board | None = None
        try:
            with BuildPool(self._toolchain.name, self._device, self._workers) as pool:
                reference = self._build_reference(pool, scratch)
                board = self._runner.open(self._device)
                recipe = recipe_of(self._device, self._toolchain, reference, board.facts())
                with TableFile(table, recipe) as file:
                    yield from self._sessions(plan, file, pool, board, reference, scratch, uncertainty, deadline)
        finally:
            if board is not None:
                board.close()
            shutil.rmtree(scratch, ignore_errors=True)

    def _sessions(
        self,
        plan: Plan,
        file: TableFile,
        pool: BuildPool,
        board: Board,
        reference: Artifact,
        scratch: Path,
        uncertainty: Callable[[LatencyTable], Uncertainty | None] | None,
        deadline: float | None,
    ) -> Iterator[Event]:
        attempts: dict[str, int] = {}
        rows = failures = 0
        reason = "done"
        while plan.left:
            if deadline is not None and self._clock() > deadline:
                reason = "time"
                break
            unsure = uncertainty(file.table) if uncertainty is not None else None
            subjects = plan.ask(self._device.protocol.session, unsure)
            context = self._context(file.table.recipe, board)
            file.append(context)
            yield Opened(context, file.path, plan.left + len(subjects))
            before = self._reference_s(board, reference)
            measured: list[Subject] = []
            for subject, artifact in self._built(pool, subjects, scratch):
                if deadline is not None and self._clock() > deadline:
                    reason = "time"
                    break
                row = self._measure(board, subject, artifact, context)
                for item in (*subject.parts, subject.item, row):
                    file.append(item)
                rows, failures = rows + 1, failures + (not row.ok)
                measured.append(subject)
                left = plan.left + len(subjects) - len(measured)
                yield Measured(row, subject.item, left, self._taken / max(1, self._fixed))
            drift = self._reference_s(board, reference) / before - 1
            check = Check(context.id, drift, abs(drift) <= self._device.protocol.drift)
            file.append(check)
            again: list[Subject] = []
            if not check.passed:
                for subject in measured:
                    attempts[subject.id] = attempts.get(subject.id, 0) + 1
                again = [s for s in measured if attempts[s.id] < MAX_ATTEMPTS]
                plan.give_back(again)
            yield Checked(check, len(again))
        yield Finished(reason, rows, failures, self._taken / max(1, self._fixed))

    def _built(
        self, pool: BuildPool, subjects: Sequence[Subject], scratch: Path
    ) -> Iterator[tuple[Subject, Artifact | BuildError]]:
        for start in range(0, len(subjects), BATCH):
            batch = subjects[start : start + BATCH]
            folders = [scratch / s.id for s in batch]
            try:
                results = list(pool.build([(s.model(), folder) for s, folder in zip(batch, folders)]))
                yield from zip(batch, results)
            finally:
                for folder in folders:
                    shutil.rmtree(folder, ignore_errors=True)

    def _measure(self, board: Board, subject: Subject, built: Artifact | BuildError, context: Context) -> Measurement:
        result: Samples | Failure
        if isinstance(built, BuildError):
            result = Failure("build", type(built).__name__, built.log)
        else:
            try:
                result = measure(board, built, self._device.protocol)
                self._taken += len(result.latency_s)
                self._fixed += FIXED_READINGS
            except DeviceQuarantined:
                raise
            except DeviceError as error:
                result = Failure("run", type(error).__name__, str(error))
        return Measurement(subject.id, context.id, result, self._stamp())

    def _build_reference(self, pool: BuildPool, scratch: Path) -> Artifact:
        result = next(pool.build([(self._reference, scratch / "reference")]))
        if isinstance(result, BuildError):
            raise result
        return result

    def _reference_s(self, board: Board, reference: Artifact) -> float:
        """The reference workload's median in seconds. Raises MeasurementInvalid where no time is measured."""
        value = measure(board, reference, self._device.protocol).metric("latency")
        if value is None:
            raise MeasurementInvalid("the reference workload gave no latency")
        return value

    def _context(self, recipe: Recipe, board: Board) -> Context:
        facts = board.facts()
        return Context(
            device=recipe.device,
            device_digest=self._device.digest,
            machine=recipe.machine,
            fidelity=recipe.fidelity,
            toolchain=recipe.toolchain,
            toolchain_version=recipe.toolchain_version,
            options=recipe.options,
            schedule=recipe.schedule,
            runner=self._device.runner,
            threads=self._device.threads(recipe.toolchain),
            protocol=self._device.protocol.model_dump(mode="json"),
            started=self._stamp(),
            hwnas=__version__,
            meter=self._device.meter,
            firmware=facts.get("firmware"),
            clock_hz=facts.get("clock_hz"),
            governor=facts.get("governor"),
            temperature_c=facts.get("temperature_c"),
        )

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="microseconds")
