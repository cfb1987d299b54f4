"""The profiling loop: ask the plan, build, measure on the boards, append the row, yield the event.

A row is on disk before its event is yielded, so stopping at any moment loses at most the measurement under way.
Each session starts and ends with a reference workload; if that drifted, the session's rows become failures of stage
`check` (by a check line; nothing is rewritten) and its subjects are measured again. Several boards of a kind work side
by side, each on sessions of its own; this module alone touches plan and table.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.device import Device
from hwnas.core.interfaces import Board, Runner, Toolchain
from hwnas.core.measurement import Context, Measurement, Samples
from hwnas.core.workload import Artifact, Network, Workload
from hwnas.errors import BuildError, DeviceError
from hwnas.profiling.fleet import side_by_side
from hwnas.profiling.lane import Lane, Row
from hwnas.profiling.measure import FIXED_READINGS, EnergyMeter
from hwnas.profiling.plan import Plan, Subject, Uncertainty
from hwnas.tables.lines import Check, Recipe, protocol_name
from hwnas.tables.table import LatencyTable, TableFile
from hwnas.toolchains.builder import BuildPool

if TYPE_CHECKING:
    from onnx import ModelProto

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
        protocol=protocol_name(device.protocol.model_dump(mode="json")),
    )


class Profiler:
    """Measures subjects on the boards of one device with one toolchain into one table file.

    `places` names the boards that work side by side (default: the first one); `meter` gives the energy meter beside a
    board, by its place, or None.
    """

    def __init__(
        self,
        device: Device,
        toolchain: Toolchain,
        runner: Runner,
        reference: ModelProto,
        *,
        places: Sequence[str] | None = None,
        meter: Callable[[str], EnergyMeter | None] = lambda _: None,
        workers: int = 2,
        clock: Clock = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._device, self._toolchain, self._runner = device, toolchain, runner
        self._reference, self._workers, self._clock, self._now = reference, workers, clock, now
        self._places, self._meter = places, meter
        self._taken = self._fixed = self._rows = self._failures = 0
        self._reason = "done"

    def run(
        self,
        plan: Plan,
        table: Path,
        *,
        uncertainty: Callable[[LatencyTable], Uncertainty | None] | None = None,
        for_s: float | None = None,
    ) -> Iterator[Event]:
        """Profile until the plan is through or `for_s` seconds are over. Raises DeviceError, TableConflict.

        Closing the generator closes boards, builders and table.
        """
        deadline = None if for_s is None else self._clock() + for_s
        scratch = Path(tempfile.mkdtemp(prefix="hwnas-"))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            pool = stack.enter_context(BuildPool(self._toolchain.name, self._device, self._workers))
            reference = self._build_reference(pool, scratch)
            boards = self._open(stack)
            recipe = recipe_of(self._device, self._toolchain, reference, boards[0][0].facts())
            lanes = [
                Lane(
                    self._device,
                    recipe,
                    board,
                    reference,
                    pool,
                    scratch,
                    self._now,
                    self._runner.remote,
                    meter,
                )
                for board, meter in boards
            ]
            file = stack.enter_context(TableFile(table, recipe))
            yield from self._sessions(lanes, plan, file, uncertainty, deadline)
        yield Finished(self._reason, self._rows, self._failures, self._share)

    def _open(self, stack: ExitStack) -> list[tuple[Board, EnergyMeter | None]]:
        found: list[tuple[Board, EnergyMeter | None]] = []
        for place in self._places or self._runner.places(self._device)[:1]:
            meter = self._meter(place)
            if meter is not None:
                meter.require(self._device.fidelity)
                stack.callback(meter.meter.close)
                meter.meter.open()
            board = self._runner.open(self._device, place)
            stack.callback(board.close)
            found.append((board, meter))
        return found

    def _sessions(
        self,
        lanes: Sequence[Lane],
        plan: Plan,
        file: TableFile,
        uncertainty: Callable[[LatencyTable], Uncertainty | None] | None,
        deadline: float | None,
    ) -> Iterator[Event]:
        attempts: dict[str, int] = {}
        asked: dict[int, list[Subject]] = {}  # by lane: what its session was given and has not measured
        measured: dict[int, list[Subject]] = {}

        def late() -> bool:
            if deadline is not None and self._clock() > deadline:
                self._reason = "time"
                return True
            return False

        def subjects_for(number: int) -> list[Subject]:
            if not plan.left or late():
                return []
            unsure = uncertainty(file.table) if uncertainty is not None and plan.undecided else None
            # The last subjects are shared out, so that no board waits long for another.
            fair = -(-plan.left // len(lanes))
            subjects = plan.ask(min(self._device.protocol.session, fair), unsure)
            asked[number], measured[number] = list(subjects), []
            return subjects

        def lost(number: int, error: DeviceError) -> None:
            plan.give_back(asked.pop(number, []))

        for number, item in side_by_side(lanes, subjects_for, late, lost, lambda: plan.left):
            left = plan.left + sum(map(len, asked.values()))
            match item:
                case Context():
                    file.append(item)
                    yield Opened(item, file.path, left)
                case Row(subject, row):
                    for known in (*subject.parts, subject.item, row):
                        file.append(known)
                    self._count(row)
                    asked[number] = [s for s in asked[number] if s.id != subject.id]
                    measured[number].append(subject)
                    yield Measured(row, subject.item, left - 1, self._share)
                case Check():
                    file.append(item)
                    again = [] if item.passed else self._again(measured[number], attempts)
                    plan.give_back([*again, *asked.pop(number)])
                    yield Checked(item, len(again))

    def _again(self, measured: Sequence[Subject], attempts: dict[str, int]) -> list[Subject]:
        for subject in measured:
            attempts[subject.id] = attempts.get(subject.id, 0) + 1
        return [s for s in measured if attempts[s.id] < MAX_ATTEMPTS]

    def _count(self, row: Measurement) -> None:
        self._rows, self._failures = self._rows + 1, self._failures + (not row.ok)
        if isinstance(row.result, Samples):
            self._taken += len(row.result.readings(self._device.metric))
            self._fixed += FIXED_READINGS

    @property
    def _share(self) -> float:
        return self._taken / max(1, self._fixed)

    def _build_reference(self, pool: BuildPool, scratch: Path) -> Artifact:
        result = next(pool.build([(self._reference, scratch / "reference")]))
        if isinstance(result, BuildError):
            raise result
        return result
