"""The Python interface: the same steps as the command line, as functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import config, registry
from hwnas.core.device import Device
from hwnas.core.estimate import Estimate
from hwnas.core.interfaces import BatchSpace, SearchSpace, Toolchain
from hwnas.core.workload import Candidate, Workload
from hwnas.errors import ConfigError, DataError
from hwnas.graph.fusion import split
from hwnas.graph.load import load_onnx
from hwnas.graph.precision import Precision
from hwnas.predictors.estimator import SpaceEstimator
from hwnas.predictors.features import features
from hwnas.predictors.fit import check_predictor, check_table, fit_network, fit_workloads, known_values
from hwnas.predictors.network import NetworkPredictor
from hwnas.profiling.measure import EnergyMeter
from hwnas.profiling.plan import Plan, Uncertainty
from hwnas.profiling.profiler import Event, Profiler
from hwnas.profiling.subjects import (
    Subjects,
    native_precision,
    network_subjects,
    reference_workload,
    space_subjects,
)
from hwnas.tables.lines import protocol_name
from hwnas.tables.table import LatencyTable, table_path

if TYPE_CHECKING:
    from onnx import ModelProto

TABLES = Path("latency_tables")
"""Where latency tables are kept unless another folder is named."""
NO_BATCHES = "space {!r} does not handle batches; give it sample_batch, block_counts and features"
NETWORKS = 40
"""Whole networks that a profile of a space measures to calibrate the correction."""


def load_device(name: str | Path) -> Device:
    """A device by name or YAML file. Raises ConfigError."""
    return config.load_device(name)


def load_space(name: str, **settings: Any) -> SearchSpace:
    """A registered search space with settings, e.g. `load_space("mbconv-micro", classes=10)`. Raises ConfigError."""
    space: SearchSpace = registry.spaces.load(name)(**settings)
    return space


def load_toolchain(name: str, device: Device) -> Toolchain:
    """A toolchain that the device allows. Raises ConfigError."""
    if name not in device.toolchains:
        raise ConfigError(f"{device.name} has no toolchain {name!r}", given=name, allowed=device.toolchains)
    toolchain: Toolchain = registry.toolchains.load(name)()
    return toolchain


def with_cpu_fallback(device: Device) -> Device:
    """The device, where what its accelerator does not compute runs on the CPU beside it. Raises ConfigError for others."""
    if device.accelerator is None:
        raise ConfigError(f"{device.name} has no accelerator that could leave work to a CPU", key="allow_cpu_fallback")
    return lenient(device)


def lenient(device: Device) -> Device:
    """The device with its CPU allowed to help where it has an accelerator, else as it is: to run what was built once."""
    if device.accelerator is None:
        return device
    chains = [t for t in device.toolchains if getattr(registry.toolchains.load(t), "support", None) is not None]
    options = {t: {**device.options.get(t, {}), "allow_cpu_fallback": True} for t in chains}
    return device.model_copy(update={"options": {**device.options, **options}})


def require_precision(device: Device, precision: Precision) -> None:
    """Raises ConfigError for a precision that the device does not compute in."""
    if precision not in device.dtypes:
        raise ConfigError(
            f"{device.name} does not compute in it", key="precision", given=precision, allowed=device.dtypes
        )


def accelerator_uses(device: Device) -> tuple[str, ...]:
    """Uses of an accelerator that its toolchains tell of an artifact and a budget may limit, such as sram or dsp."""
    if device.accelerator is None:
        return ()
    told = [use for name in device.toolchains for use in getattr(registry.toolchains.load(name), "uses", ())]
    return tuple(dict.fromkeys(told))


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile about to run: what it will measure and where the rows go."""

    device: Device
    toolchain: Toolchain
    subjects: Subjects
    plan: Plan
    table: Path
    seed: int
    boards: int | None = None

    def events(self, for_s: float | None = None) -> Iterator[Event]:
        """Run it: a generator of events; a row is on disk before its event is yielded."""
        runner = registry.runners.load(self.device.runner)()
        places = runner.places(self.device)[: self.boards]
        profiler = Profiler(
            self.device,
            self.toolchain,
            runner,
            reference_workload(self.device),
            places=places,
            meter=partial(meter_at, self.device),
        )
        return profiler.run(self.plan, self.table, uncertainty=self._uncertainty, for_s=for_s)

    def _uncertainty(self, table: LatencyTable) -> Uncertainty | None:
        return fit_workloads(table, self.device, seed=self.seed).uncertainty


def plan_profile(
    device: Device,
    source: SearchSpace | ModelProto | Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    toolchain: str | None = None,
    workloads: int | None = None,
    networks: int = NETWORKS,
    tables: Path = TABLES,
    resume: bool = True,
    seed: int = 0,
    precision: Precision | None = None,
    boards: int | None = None,
) -> Profile:
    """Decide what to measure of a space, or of one network, on a device.

    `shapes` fixes inputs that an ONNX file leaves open; `workloads` limits how many (None: all); with `resume`,
    subjects that have a valid row are not measured again. `precision` casts a space (None: fp32 where the device
    computes it, else int8); an ONNX file is what it is.
    `boards` limits how many work side by side (None: all there are). Raises ConfigError, DataError, TableConflict.
    """
    chain = load_toolchain(toolchain or device.toolchains[0], device)
    precision = precision or native_precision(device)
    require_precision(device, precision)
    if isinstance(source, SearchSpace):
        subjects = space_subjects(source, chain.rules, networks, seed, precision)
    else:
        label, network = (source.name, load_onnx(source, shapes)) if isinstance(source, Path) else ("network", source)
        subjects = network_subjects(label, network, chain.rules)
    protocol = protocol_name(device.protocol.model_dump(mode="json"))
    path = table_path(tables, device.name, device.fidelity, chain.name, protocol, device.tuned(chain.name))
    done: frozenset[str] = frozenset()
    if resume and path.exists():
        table = LatencyTable.read(path)
        check_table(table, device)
        done = frozenset(table.values())
    plan = Plan(
        subjects.frequency, subjects.by_id, subjects.networks, limit=workloads, features=features, done=done, seed=seed
    )
    return Profile(device, chain, subjects, plan, path, seed, boards)


def profile(
    device: Device,
    source: SearchSpace | ModelProto | Path,
    *,
    toolchain: str | None = None,
    workloads: int | None = None,
    networks: int = NETWORKS,
    tables: Path = TABLES,
    for_s: float | None = None,
    seed: int = 0,
    precision: Precision | None = None,
) -> LatencyTable:
    """Measure a space's or a network's workloads on the device, and return the whole table."""
    todo = plan_profile(
        device,
        source,
        toolchain=toolchain,
        workloads=workloads,
        networks=networks,
        tables=tables,
        seed=seed,
        precision=precision,
    )
    for _ in todo.events(for_s):
        pass
    return LatencyTable.read(todo.table)


def fit(
    table: LatencyTable | Path, *, device: Device | None = None, metric: str | None = None, seed: int = 0
) -> NetworkPredictor:
    """A predictor of a metric from a latency table; None: what a run is measured in on the device.

    Raises TableConflict for a table of another device, DataError for one without a valid row of the metric.
    """
    if isinstance(table, Path):
        table = LatencyTable.read(table)
    device = device or load_device(table.recipe.device)
    predictor = fit_network(table, device, metric, seed)
    if not known_values(table, device, predictor.metric):
        raise DataError(
            f"the table of {table.recipe.device} holds no valid row with {predictor.metric}; there is nothing to fit"
        )
    return predictor


def fit_measurements(
    space: SearchSpace, candidates: Sequence[Candidate], values: Sequence[float | None], seed: int = 0
) -> Any:
    """A predictor from measurements of whole candidates (SI units; None: not measurable there)."""
    from hwnas.predictors.stack import NetworkStack

    if not isinstance(space, BatchSpace):
        raise ConfigError(NO_BATCHES.format(space.name))
    stack = NetworkStack(seed)
    stack.fit(space, candidates, values)
    return stack


def estimator(
    space: SearchSpace,
    device: Device,
    *,
    predictor: NetworkPredictor | None,
    toolchain: str | None = None,
    confidence: float = 0.9,
    precision: Precision | None = None,
) -> SpaceEstimator:
    """Batch estimates of a space on a device; `learn` refits `predictor`. Raises ConfigError, TableConflict."""
    if not isinstance(space, BatchSpace):
        raise ConfigError(NO_BATCHES.format(space.name))
    precision = precision or native_precision(device)
    require_precision(device, precision)
    chain = load_toolchain(toolchain or _toolchain_of(predictor) or device.toolchains[0], device)
    if predictor is not None:
        check_predictor(predictor, device, chain.name)
    resources = getattr(chain, "resources", None)
    fixed: Mapping[str, float] = {} if resources is None else resources(device)
    return SpaceEstimator(space, chain, predictor, confidence, precision, fixed)


def estimate(
    network: Path | ModelProto, device: Device, *, predictor: NetworkPredictor, toolchain: str | None = None
) -> Estimate:
    """The predictor's metric of one network on the device, from its workloads.

    Raises DataError, TableConflict, ConfigError for floats where a device computes integers alone, UnsupportedOperator
    for what an accelerator does not compute where its CPU may not help.
    """
    chain = load_toolchain(toolchain or _toolchain_of(predictor) or device.toolchains[0], device)
    check_predictor(predictor, device, chain.name)
    model = load_onnx(network) if isinstance(network, Path) else network
    if native_precision(device) == "int8" and not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ConfigError(f"{device.name} computes in int8: quantise the network first", key="network", given="floats")
    divide = getattr(chain, "partition", None)
    if divide is not None:
        divide(model, device)
    parts = split(model, chain.rules)
    return predictor.estimate_any(parts.parts, parts.workloads)


def meter_at(device: Device, place: str) -> EnergyMeter | None:
    """The energy meter beside a board, as the lab file says, else the one that every such board has; None if none.

    Raises ConfigError for a meter that nobody knows, DeviceUnavailable for one that is not there.
    """
    lab = config.load_lab()
    named = next((b.meter for b in lab.of(device.name) if b.name == place and b.meter), None)
    if named is None and device.rpc is not None:
        ways = {r.place(device.rpc.key): r.meter for r in lab.rpc_of(device.name)}
        named = ways.get(place)
    if named is not None:
        wanted = next(m for m in lab.meters if m.name == named)
        return EnergyMeter(registry.meters.load(wanted.use)(wanted.settings), device.protocol)
    if device.meter is not None:
        return EnergyMeter(registry.meters.load(device.meter)({}), device.protocol)
    return None


def _toolchain_of(predictor: NetworkPredictor | None) -> str | None:
    return None if predictor is None else predictor.workloads.toolchain


def breakdown(network: ModelProto, predictor: NetworkPredictor, rules: str) -> list[tuple[Workload, int, float, str]]:
    """Each workload of a network: its count, the predictor's metric over all occurrences, where the number came from."""
    parts = split(network, rules)
    known = list(parts.workloads.values())
    values, sources = predictor.workloads.values(known)
    rows = [(w, parts.parts[w.id], float(v) * parts.parts[w.id], s) for w, v, s in zip(known, values, sources)]
    return sorted(rows, key=lambda row: -row[2])
