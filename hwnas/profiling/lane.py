"""One board at work: sessions of subjects, each bracketed by the reference workload. It writes nothing; it yields."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hwnas import __version__
from hwnas.core.device import Device
from hwnas.core.interfaces import Board
from hwnas.core.measurement import Context, Failure, Measurement, Samples, check_samples
from hwnas.core.workload import Artifact
from hwnas.errors import (
    BuildError,
    DeviceError,
    DeviceQuarantined,
    DeviceUnavailable,
    MeasurementInvalid,
    TableConflict,
)
from hwnas.profiling.measure import EnergyMeter, Unfit, measure
from hwnas.profiling.plan import Subject
from hwnas.tables.lines import Check, Recipe
from hwnas.toolchains.builder import BuildPool

BATCH = 16
"""Subjects built at a time, before they are measured undisturbed."""
REMOTE_BATCH = 48
"""The same for a board elsewhere: what is flashed takes as many in one image as fit."""
UNKNOWN_DRIFT = 1e9
"""The drift of a session whose reference could not be read for a board that was not fit: JSON knows no infinity."""
HEAT_SLICE_S = 60.0
Built = tuple[Subject, Artifact | BuildError]


@dataclass(frozen=True, slots=True)
class Row:
    """A subject was measured or failed."""

    subject: Subject
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Lane:
    """A board with what it needs to measure: `remote` boards are not disturbed by builds on this computer."""

    device: Device
    recipe: Recipe
    board: Board
    reference: Artifact
    pool: BuildPool
    scratch: Path
    now: Callable[[], datetime]
    remote: bool = False
    meter: EnergyMeter | None = None

    def session(self, subjects: Sequence[Subject], stop: Callable[[], bool]) -> Iterator[Context | Row | Check]:
        """Measure subjects between two readings of the reference workload, until `stop` says so. Raises DeviceError.

        A board that is not fit when the reference is read fails the check, and with it the session's rows.
        """
        context = self._context()
        yield context
        self.board.stage([self.reference])
        try:
            before = self._reference()
        except MeasurementInvalid as error:
            yield Check(context.id, UNKNOWN_DRIFT, False)
            raise DeviceUnavailable(f"{error}; let it recover, and go on with --resume") from error
        for batch in self._batches(subjects):
            if stop():
                break
            self.board.stage([self.reference, *(a for _, a in batch if isinstance(a, Artifact))])
            for subject, built in batch:
                if stop():
                    break
                yield Row(subject, self._measurement(subject, built, context))
        try:
            drift = self._reference() / before - 1
        except MeasurementInvalid:
            drift = UNKNOWN_DRIFT
        yield Check(context.id, drift, abs(drift) <= self.device.protocol.drift)

    def warm(self) -> None:
        """Load the board as long as the sustained protocol asks for. Raises DeviceError."""
        if self.device.protocol.heat:
            self.board.stage([self.reference])
            left = self.device.protocol.heat  # in slices: a lease, or a heartbeat, need not last for all of it
            while left > 0:
                self.board.loop(self.reference, min(left, HEAT_SLICE_S), self.device.protocol.timeout)
                left -= HEAT_SLICE_S

    def _batches(self, subjects: Sequence[Subject]) -> Iterator[list[Built]]:
        """Batches of built subjects; for a remote board the next one is built while this one is measured."""
        size = REMOTE_BATCH if self.remote else BATCH
        starts = range(0, len(subjects), size)
        closing = threading.Event()
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[list[Built]] | None = None
            try:
                for start in starts:
                    now, following = subjects[start : start + size], subjects[start + size : start + 2 * size]
                    batch = coming.result() if coming is not None else self._built(now, closing)
                    coming = ahead.submit(self._built, following, closing) if self.remote and following else None
                    try:
                        yield batch
                    finally:
                        for subject, _ in batch:
                            shutil.rmtree(self.scratch / subject.id, ignore_errors=True)
            finally:
                closing.set()  # who stops waits for a piece of what is built ahead, not for all of it

    def _built(self, batch: Sequence[Subject], closing: threading.Event) -> list[Built]:
        found: list[Built] = []
        for start in range(0, len(batch), BATCH):
            if closing.is_set():
                break
            piece = batch[start : start + BATCH]
            found += zip(piece, self.pool.build([(s.model(), self.scratch / s.id) for s in piece]))
        return found

    def _measurement(self, subject: Subject, built: Artifact | BuildError, context: Context) -> Measurement:
        result: Samples | Failure
        if isinstance(built, BuildError):
            result = Failure("build", type(built).__name__, built.log)
        else:
            result = self._measured(built)
        return Measurement(subject.id, context.id, result, self._stamp())

    def _measured(self, artifact: Artifact) -> Samples | Failure:
        try:
            samples = measure(self.board, artifact, self.device.protocol, self.device.metric)
            check_samples(samples)
        except DeviceQuarantined:
            raise
        except MeasurementInvalid as error:
            return Failure("check", type(error).__name__, str(error))
        except DeviceError as error:
            return Failure("run", type(error).__name__, str(error))
        samples = replace(samples, uncovered=artifact.uncovered, code=artifact.code)
        if artifact.memory:
            samples = replace(samples, memory={**artifact.memory, **(samples.memory or {})})
        if self.meter is None:
            return samples
        try:
            window = self.meter.window(self.board, artifact)
            if window is not None:
                check_samples(replace(samples, energy=(window,)))
        except DeviceQuarantined:
            raise
        except Unfit as error:
            return Failure("check", type(error).__name__, str(error))
        except (MeasurementInvalid, DeviceError) as error:
            return Failure("meter", type(error).__name__, str(error))
        return samples if window is None else replace(samples, energy=(window,))

    def _reference(self) -> float:
        value = measure(self.board, self.reference, self.device.protocol, self.device.metric).metric(self.device.metric)
        assert value is not None  # or `measure` would have raised
        return value

    def _context(self) -> Context:
        facts: dict[str, Any] = dict(self.board.facts())
        if facts["machine"] != self.recipe.machine:
            raise TableConflict(
                f"{facts.get('board') or 'a board'} is {facts['machine']}, not {self.recipe.machine}: rows of two "
                "machines do not mix; measure one at a time, each into a --table of its own"
            )
        recipe, health = self.recipe, self.board.health()
        return Context(
            device=recipe.device,
            device_digest=self.device.digest,
            machine=recipe.machine,
            fidelity=recipe.fidelity,
            toolchain=recipe.toolchain,
            toolchain_version=recipe.toolchain_version,
            options=recipe.options,
            schedule=recipe.schedule,
            runner=self.device.runner,
            threads=self.device.threads(recipe.toolchain),
            protocol=self.device.protocol.model_dump(mode="json"),
            started=self._stamp(),
            hwnas=__version__,
            meter=None if self.meter is None else self.meter.meter.name,
            firmware=facts.get("firmware"),
            clock_hz=health.clock_hz or facts.get("clock_hz"),
            governor=health.governor or facts.get("governor"),
            temperature_c=health.temperature_c if health.temperature_c is not None else facts.get("temperature_c"),
            board=facts.get("board"),
            counter=facts.get("counter"),
        )

    def _stamp(self) -> str:
        return self.now().isoformat(timespec="microseconds")
