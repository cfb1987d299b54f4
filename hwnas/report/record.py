"""What a search run produced, as the file `record.json`: the only input of the report.

Strict and frozen, with SI units in storage. Where a value belongs to a budgeted metric it stands under the metric's
name, whose kind (`hwnas.core.estimate.METRIC_KIND`) says its unit, so that devices that count instructions or cycles
are told by the same record. `None` means not measured.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from hwnas.config import validate
from hwnas.core.estimate import Metric
from hwnas.core.estimate import Source as EstimateSource
from hwnas.core.measurement import Fidelity
from hwnas.errors import ConfigError, DataError
from hwnas.records import write_atomically

MAX_RECORD_BYTES = 64 * 2**20
MIN_READINGS = 5
MAX_DEPTH = 32

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _known(value: object) -> object:
    """Budget.violations says infinity for 'not measured'; JSON has no infinity and the record's word is None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval(value: tuple[float, float]) -> tuple[float, float]:
    if value[1] < value[0]:
        raise ValueError(f"the high end {value[1]} is below the mean {value[0]}")
    return value


def _shallow(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
    if level:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return value


Word = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=20_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
MeanHigh = Annotated[tuple[Amount, Amount], AfterValidator(_interval)]
Violation = Annotated[float | None, BeforeValidator(_known)]


class UsedToolchain(BaseModel):
    """What built the networks that were measured."""

    model_config = _STRICT
    name: Word
    version: Word
    schedule: Word


class RecordedTrial(BaseModel):
    """A trial: accuracy None where it was never trained, `screened_loss` where it was only trained briefly."""

    model_config = _STRICT
    number: int = Field(ge=0)
    encoded: Text
    accuracy: Share | None = None
    feasible: bool
    estimates: dict[Metric, MeanHigh] = {}
    measured: dict[Metric, Amount] = {}
    screened_loss: float | None = None

    def value(self, metric: Metric) -> float | None:
        """The best known value of a metric in SI: measured before estimated (mean); None if neither."""
        if metric in self.measured:
            return self.measured[metric]
        return self.estimates[metric][0] if metric in self.estimates else None


class Curve(BaseModel):
    """One training: loss and validation accuracy after each epoch."""

    model_config = _STRICT
    seed: int
    losses: tuple[float, ...] = ()
    val_accuracies: tuple[Share, ...] = ()


class Finalist(BaseModel):
    """A candidate that was trained fully and taken to the device.

    readings: spaced readings on the device by metric, SI, at least five each. measured: the other metrics that were
    measured (flash, RAM). violations: relative excess by limited metric, None where it could not be measured.
    """

    model_config = _STRICT
    encoded: Text
    winner: bool = False
    val_accuracies: tuple[Share, ...] = ()
    test_accuracy: Share | None = None
    test_samples: int = Field(default=0, ge=0)
    estimate: dict[Metric, MeanHigh] = {}
    readings: dict[Metric, Annotated[tuple[Amount, ...], Field(min_length=MIN_READINGS)]] = {}
    measured: dict[Metric, Amount] = {}
    meets_budget: bool
    violations: dict[Metric, Violation] = {}
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.test_accuracy is not None and self.test_samples < 1:
            raise ValueError("test_accuracy needs test_samples")
        if self.meets_budget and any(v is None or v > 0 for v in self.violations.values()):
            raise ValueError("meets_budget contradicts violations")
        return self

    def value(self, metric: Metric) -> float | None:
        """The measured value of a metric in SI: the median of its readings, else the single measurement, else None."""
        return median(self.readings[metric]) if metric in self.readings else self.measured.get(metric)


class PredictorQuality(BaseModel):
    """How well whole networks are predicted that the predictor did not see (out of fold).

    points: (predicted, measured) in SI of `metric`. covered: share of networks at or below their upper bound, which
    is meant to be `confidence`; bound_ratio: upper bound over prediction, where that is one factor.
    """

    model_config = _STRICT
    metric: Metric = "latency"
    networks: int = Field(ge=1)
    mape: Amount
    points: tuple[tuple[Amount, Amount], ...] = ()
    covered: Share | None = None
    bound_ratio: float | None = Field(default=None, ge=1)


class Kernel(BaseModel):
    """One class of kernels in the winner: `total` is of all `count` occurrences, in SI of the breakdown's metric."""

    model_config = _STRICT
    op: Word
    count: int = Field(ge=1)
    total: Amount
    source: EstimateSource


class Breakdown(BaseModel):
    """Where the winner's latency goes: isolated kernels, their sum, and the whole network end to end, in SI.

    parts: of a run on an accelerator, what it takes itself, what the CPU rest and handing tensors over take.
    """

    model_config = _STRICT
    metric: Metric = "latency"
    kernels: tuple[Kernel, ...]
    end_to_end: Amount | None = None
    parts: dict[Literal["accelerator", "cpu", "transfer"], Amount] = Field(default_factory=dict)

    @property
    def isolated(self) -> float:
        """The sum of the isolated kernels, in SI of the metric."""
        return math.fsum(kernel.total for kernel in self.kernels)


class ToolchainResult(BaseModel):
    """A toolchain that was compared: geometric mean over `networks` networks, in SI of the comparison's metric."""

    model_config = _STRICT
    name: Word
    version: Word
    schedule: Word
    networks: int = Field(ge=1)
    geometric_mean: Amount
    ratio: float = Field(ge=1, description="to the fastest")


class Noise(BaseModel):
    """Test-retest agreement: Kendall's tau between accuracies of the same candidates trained on two seeds."""

    model_config = _STRICT
    kendall: float = Field(ge=-1, le=1)
    pairs: int = Field(ge=2)


class Regret(BaseModel):
    """A strategy on the regret bench: mean regret in points of accuracy over runs at equal queries."""

    model_config = _STRICT
    strategy: Word
    mean_regret_points: float
    runs: int = Field(ge=1)
    queries: int = Field(ge=1)


class RunRecord(BaseModel):
    """Everything a report tells about a search run. `objective` is the metric that accuracy is traded against."""

    model_config = _STRICT
    schema_: Literal[1] = Field(default=1, alias="schema")
    title: Word
    created: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}(T[0-9:.+Z-]{5,30})?$")]
    hwnas: Word
    versions: dict[Word, Word] = {}
    device: Word
    machine: Word
    fidelity: Fidelity
    toolchain: UsedToolchain
    space: Word
    data: Word
    seed: int
    strategy: Word
    objective: Metric = "latency"
    budget: dict[Metric, Amount] = {}
    confidence: float = Field(default=0.9, gt=0, lt=1)
    settings: Annotated[dict[str, JsonValue], AfterValidator(_shallow)] = {}
    trials: tuple[RecordedTrial, ...] = ()
    front: tuple[int, ...] = ()
    finalists: tuple[Finalist, ...] = ()
    predictor: PredictorQuality | None = None
    breakdown: Breakdown | None = None
    toolchains: tuple[ToolchainResult, ...] = ()
    noise: Noise | None = None
    regret_bench: tuple[Regret, ...] | None = None
    notes: tuple[Text, ...] = ()
    commands: tuple[Text, ...] = Field(default=(), description="what to type to reproduce; empty: derived")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        numbers = {trial.number for trial in self.trials}
        if len(numbers) != len(self.trials):
            raise ValueError("two trials have the same number")
        if missing := sorted(set(self.front) - numbers):
            raise ValueError(f"front names trial {missing[0]}, which is not in trials")
        if sum(finalist.winner for finalist in self.finalists) > 1:
            raise ValueError("more than one finalist is the winner")
        return self

    @property
    def winner(self) -> Finalist | None:
        return next((finalist for finalist in self.finalists if finalist.winner), None)

    @property
    def front_trials(self) -> tuple[RecordedTrial, ...]:
        """The trials on the front that have a known place in the plot, in rising order of the objective."""
        on_front = set(self.front)
        placed = [
            (value, trial.number, trial)
            for trial in self.trials
            if trial.number in on_front
            and trial.accuracy is not None
            and (value := trial.value(self.objective)) is not None
        ]
        return tuple(trial for _, _, trial in sorted(placed, key=lambda item: item[:2]))

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """The record in a file. Raises DataError if it is missing, too large, not JSON or not a record."""
        try:
            if path.stat().st_size > MAX_RECORD_BYTES:
                raise DataError(f"is larger than {MAX_RECORD_BYTES} bytes; this is not a run record", path=path)
            document: Any = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path=path) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"is not a run record ({error})", path=path) from error
        if not isinstance(document, dict):
            raise DataError("is not a run record (not an object)", path=path)
        try:
            return validate(cls, document)
        except ConfigError as error:
            raise DataError(f"is not a run record: {error}", path=path) from error

    def write(self, path: Path) -> Path:
        """Write the record, the whole file or nothing. Raises HwnasError if the disk refuses."""
        document = self.model_dump(mode="json", by_alias=True)
        write_atomically(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=True) + "\n")
        return path


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")
