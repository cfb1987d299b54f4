"""The extension points, each a narrow Protocol; `hwnas.testing` ships the contract suite of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hwnas.core.device import Device
from hwnas.core.estimate import Estimate
from hwnas.core.measurement import EnergyWindow, Fidelity, Samples
from hwnas.core.trial import Trial
from hwnas.core.workload import Artifact, Block, BlockCounts, Candidate, Workload

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto
    from torch import Tensor, nn


@runtime_checkable
class SearchSpace(Protocol):
    """A set of networks, each named by a genotype of small integers.

    `id` changes with every setting that changes the networks; `input_shape` is 1 x c x h x w (or 1 x c x t).
    All randomness comes from the generator that is passed in.
    """

    name: str
    id: str
    input_shape: tuple[int, ...]
    classes: int

    def sample(self, rng: np.random.Generator) -> Candidate: ...
    def mutate(self, parent: Candidate, rng: np.random.Generator) -> Candidate: ...
    def crossover(self, a: Candidate, b: Candidate, rng: np.random.Generator) -> Candidate: ...

    def encode(self, candidate: Candidate) -> str:
        """The candidate's text form; `parse(encode(c)) == c`."""
        ...

    def parse(self, text: str) -> Candidate:
        """The candidate of a text form. Raises CandidateError for a text of another space."""
        ...

    def decode(self, candidate: Candidate) -> nn.Module:
        """The network, weights initialised from torch's global generator; decoding is otherwise pure."""
        ...

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        """The blocks of the network in order, a block as often as it occurs."""
        ...


@runtime_checkable
class BatchSpace(SearchSpace, Protocol):
    """A space that handles many candidates at once, as integer arrays n x g."""

    def sample_batch(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n genotypes, n x g, drawn as `sample` draws them."""
        ...

    def block_counts(self, genotypes: np.ndarray) -> BlockCounts:
        """Block counts of n candidates (n x g genotypes), at 100,000 candidates a second or more."""
        ...

    def features(self, genotypes: np.ndarray) -> np.ndarray:
        """Graph features for accuracy predictors, n x f (float)."""
        ...


class Toolchain(Protocol):
    """Builds ONNX for a device. `rules` names the fusion rule set that matches what it fuses.

    A toolchain may have `check(device)`, which raises ConfigError for a device that it would refuse to build for.
    """

    name: str
    rules: str

    def version(self) -> str: ...

    def unsupported(self, node: NodeProto) -> str | None:
        """None if the operator is supported, else the reason (the rule's docstring)."""
        ...

    def flash_bytes(self, onnx: ModelProto) -> int:
        """What a network (or a block of one) will take on the device, code and constants, before it is built."""
        ...

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Build into the folder `into`. Raises BuildError, UnsupportedOperator."""
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a board at one moment; None where it cannot tell. `complaints` name what spoils a measurement now
    (throttled, undervoltage, clock capped): a row taken meanwhile is a failure of stage `check`."""

    clock_hz: float | None = None
    governor: str | None = None
    temperature_c: float | None = None
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loop:
    """Runs back to back for an energy meter: how many, and their window in this computer's `time.monotonic` (s)."""

    runs: int
    began_s: float
    ended_s: float


class Board(Protocol):
    """An open session on a device: closed -> ready -> measuring -> ready ... -> quarantined."""

    def facts(self) -> Mapping[str, Any]:
        """Context fields the board knows: machine, clock_hz, governor, temperature_c, firmware, board, counter."""
        ...

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        """Told which artifacts come next, so that a board that must be flashed takes many at once; else nothing.

        What does not fit is left to `run`, which then raises for that artifact alone. Raises DeviceError."""
        ...

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        """Run an artifact until it gave `readings` readings. Raises DeviceError; the board stays usable after a
        crash or time-out of the artifact, unless it raises DeviceQuarantined."""
        ...

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Loop:
        """Run an artifact back to back for at least `seconds`, trigger raised where there is one. Raises DeviceError."""
        ...

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        """The network's outputs for one set of inputs, computed on the device."""
        ...

    def health(self) -> Health: ...

    def close(self) -> None: ...


class Runner(Protocol):
    """Talks to one kind of device. `remote`: it is not disturbed by what else this computer does, such as building."""

    name: str
    remote: bool

    def places(self, device: Device) -> tuple[str, ...]:
        """The names of the boards of this kind that can be opened side by side; at least one. Raises DeviceUnavailable."""
        ...

    def open(self, device: Device, place: str | None = None) -> Board:
        """Open the board of that name, or the first. Raises DeviceUnavailable."""
        ...


class Trace(Protocol):
    """What a meter saw between the begin and the end of `record`."""

    def window(self, loop: Loop, idle_s: float, least_samples: int) -> EnergyWindow | None:
        """The energy of a loop, aligned by the trigger where the meter sees it, else by this computer's clock.

        Idle power is taken `idle_s` before and after. None where there are too few samples, never a guess."""
        ...


class Meter(Protocol):
    """Measures energy beside a run; made by `Meter(settings)` with the settings of the lab file."""

    name: str
    fidelity: Fidelity

    def open(self) -> None:
        """Take hold of the meter, before the board is opened: some meters power it. Raises DeviceUnavailable."""
        ...

    def record(self) -> AbstractContextManager[Trace]:
        """Record from entry to exit; the trace is complete after exit. Raises DeviceUnavailable."""
        ...

    def close(self) -> None: ...


class Proxy(Protocol):
    """A score of an untrained network, higher is better. `batch` is (inputs n x ..., labels n)."""

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> float: ...


class Predictor(Protocol):
    """Predicts a metric of workloads in SI units."""

    def fit(self, workloads: Sequence[Workload], values: Sequence[float]) -> None: ...
    def predict(self, workloads: Sequence[Workload]) -> list[Estimate]: ...
    def save(self, path: Path) -> None: ...


class SearchStrategy(Protocol):
    """Decides what to try next. Deterministic given its seed and what it was told."""

    def ask(self, n: int) -> list[Candidate]: ...
    def tell(self, trials: Iterable[Trial]) -> None: ...


class Exporter(Protocol):
    """Writes a deployable form of an artifact."""

    def export(self, artifact: Artifact, into: Path) -> list[Path]: ...


AccuracyFunction = Callable[[Sequence[Candidate]], Sequence[float]]
"""Anything that gives accuracies (fractions 0..1) for candidates: training, a table, a user's own function."""


@runtime_checkable
class HardwareEstimator(Protocol):
    """Estimates every budgeted metric of many candidates at once."""

    metrics: tuple[str, ...]

    def estimate(self, genotypes: np.ndarray) -> Mapping[str, np.ndarray]:
        """metric -> n x 2 array of (mean, high) in SI units, for n x g genotypes."""
        ...

    def learn(self, candidate: Candidate, measured: Mapping[str, float]) -> None:
        """Take in a whole network's measurement (SI values by metric); the next estimates reflect it."""
        ...


DeviceFunction = Callable[[Candidate], Mapping[str, float]]
"""Measures a whole candidate on the device: SI values by metric. Raises DeviceError where it cannot be measured."""

Events = Iterator[Any]
