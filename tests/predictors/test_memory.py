"""Flash from kernels: of images, against those that committed tables hold, and of libraries that are built here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.config import load_device
from hwnas.core.measurement import SHARED_CODE, Context, Fidelity, Measurement, Samples
from hwnas.core.workload import Artifact, Candidate
from hwnas.errors import DataError
from hwnas.graph.analysis import analyse
from hwnas.graph.workloads import materialize
from hwnas.predictors.estimator import SpaceEstimator
from hwnas.predictors.memory import MemoryPredictor
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.workload import WorkloadPredictor
from hwnas.profiling.subjects import network_subject, untrained
from hwnas.tables.lines import Recipe
from hwnas.tables.table import LatencyTable
from hwnas.toolchains.builder import BuildPool
from hwnas.toolchains.tvm import TvmToolchain
from tests.predictors.known_workloads import law, space

TABLES = Path(__file__).parents[2] / "latency_tables"


def table_of(device: str) -> LatencyTable:
    return LatencyTable.read(TABLES / device / "instruction-sim-cgen.jsonl")


def estimates(predictor: MemoryPredictor, table: LatencyTable) -> dict[str, float]:
    """network id -> flash in bytes, kernel by kernel as the formula says."""
    found = {}
    for network in table.networks.values():
        rows = {k: predictor.row(table.workloads[k]) for k in network.parts}
        needs, sizes = predictor.shared(list(network.parts))
        bytes_of_kernels = sum(rows[k][0] + count * rows[k][1] for k, count in network.parts.items())
        own = predictor.own_flash @ [1, sum(network.parts.values()), len(network.parts)]
        found[network.id] = bytes_of_kernels + float(needs.any(axis=0) @ sizes) + own
    return found


@pytest.mark.parametrize("device", ["cortex-m4-qemu", "cortex-m7-qemu"])
def test_flash_of_networks_that_were_not_fitted(device: str) -> None:
    table = table_of(device)
    measured = table.values("flash")
    known = sorted(table.networks)[::2]
    half = table_of(device)
    for id in [k for k in half.networks if k not in known]:
        del half.networks[id]
    predictor = MemoryPredictor.of(half)
    assert predictor is not None
    found = estimates(predictor, table)
    errors = [abs(found[k] / measured[k] - 1) for k in table.networks if k not in known]
    assert len(errors) == 20
    assert max(errors) < 0.01


def test_rows_that_tell_no_ram_tell_flash_all_the_same() -> None:
    table, bare = table_of("cortex-m4-qemu"), table_of("cortex-m4-qemu")
    for id, row in bare.measurements.items():
        assert isinstance(row.result, Samples) and row.result.memory
        memory = {use: size for use, size in row.result.memory.items() if use not in ("ram", "arena", "workspace")}
        bare.measurements[id] = replace(row, result=replace(row.result, memory=memory))
    with_ram, without = MemoryPredictor.of(table), MemoryPredictor.of(bare)
    assert with_ram is not None and without is not None
    assert with_ram.ram_bytes and without.ram_bytes is None
    assert MemoryPredictor.from_json(without.to_json()).ram_bytes is None
    assert estimates(without, bare) == estimates(with_ram, table)


CONTEXT = Context(
    device="host", device_digest="0", machine="m", fidelity=Fidelity.HARDWARE, toolchain="tvm", toolchain_version="1",
    options={}, schedule="s", runner="fake", threads=1, protocol={}, started="2026-01-01", hwnas="0",
)  # fmt: skip


def built_table(candidates: list[Candidate], folder: Path) -> tuple[LatencyTable, list[int]]:
    """What the libraries of candidates and of their kernels take, as a table tells it; and each candidate's flash."""
    table = LatencyTable(Recipe.of(CONTEXT))
    table.add(CONTEXT)
    subjects, workloads = [], {}
    for candidate in candidates:
        subject, parts = network_subject(space().encode(candidate), untrained(space(), candidate), "tvm", space().id)
        subjects.append(subject)
        workloads |= parts
    models = {**{k: materialize(w) for k, w in workloads.items()}, **{s.id: s.model() for s in subjects}}
    with BuildPool("tvm", load_device("host"), workers=1) as pool:
        built = dict(zip(models, pool.build([(model, folder / k) for k, model in models.items()])))
    for item in (*workloads.values(), *(s.item for s in subjects)):
        table.add(item)
        artifact = built[item.id]
        assert isinstance(artifact, Artifact), artifact
        samples = Samples(latency_s=(1e-6,), memory=dict(artifact.memory))
        table.add(Measurement(item.id, CONTEXT.id, samples, "t"))
    flash = table.values("flash")
    return table, [int(flash[s.id]) for s in subjects]


def test_flash_of_libraries_that_were_not_fitted(tmp_path: Path) -> None:
    """TVM builds 12 networks; the rows of 8 of them, and of all kernels, foretell the others."""
    rng = np.random.default_rng(3)
    candidates = [space().sample(rng) for _ in range(12)]
    table, measured = built_table(candidates, tmp_path)
    unseen = {space().encode(c) for c in candidates[8:]}
    table.networks = {k: n for k, n in table.networks.items() if n.label not in unseen}
    assert (len(table.networks), len(unseen)) == (8, 4)
    kernels = WorkloadPredictor(load_device("host"), toolchain="tvm")
    known = list(table.workloads.values())
    kernels.fit(known, law(known))
    memory = MemoryPredictor.of(table)
    assert memory is not None and memory.ram_bytes is None
    genotypes = np.array([c.genotype for c in candidates])
    told = SpaceEstimator(space(), TvmToolchain(), NetworkPredictor(kernels, memory=memory)).estimate(genotypes)
    plain = SpaceEstimator(space(), TvmToolchain(), None).estimate(genotypes)
    errors = np.abs(told["flash"][:, 0] / measured - 1)[8:]
    assert errors.max() < 0.08 and errors.mean() < 0.04  # eight networks teach three numbers; forty come within 2 %
    assert (np.abs(plain["flash"][:, 0] / measured - 1) < 0.35).all()
    activations = [analyse(untrained(space(), c)).peak_activation_bytes for c in candidates]
    assert told["ram"][:, 0].tolist() == plain["ram"][:, 0].tolist() == activations


def test_what_kernels_share_counts_once() -> None:
    table = table_of("cortex-m7-qemu")
    predictor = MemoryPredictor.of(table)
    assert predictor is not None
    shared = {
        row.subject
        for row in table.measurements.values()
        if isinstance(row.result, Samples) and any(use.startswith(SHARED_CODE) for use in row.result.memory or ())
    }
    kernels = sorted(shared & table.workloads.keys())
    needs, sizes = predictor.shared(kernels)
    assert needs.shape == (len(kernels), len(sizes)) and needs.any(axis=1).all() and (sizes > 0).all()
    assert needs.sum() > len(sizes), "no function is shared"
    assert needs.max(axis=0) @ sizes < needs.sum(axis=0) @ sizes


def test_a_table_that_does_not_tell_is_read_as_before() -> None:
    table = table_of("cortex-m7-qemu")
    for id, row in table.measurements.items():
        assert isinstance(row.result, Samples) and row.result.memory
        memory = {use: size for use, size in row.result.memory.items() if not use.startswith(SHARED_CODE)}
        table.measurements[id] = replace(row, result=replace(row.result, memory=memory))
    predictor = MemoryPredictor.of(table)
    assert predictor is not None and predictor.shared(sorted(table.workloads))[1].size == 0
    assert 0.01 < predictor.flash_error < 0.1


def test_saved_and_read_again() -> None:
    table = table_of("cortex-m4-qemu")
    predictor = MemoryPredictor.of(table)
    assert predictor is not None
    again = MemoryPredictor.from_json(predictor.to_json())
    assert np.allclose(list(estimates(again, table).values()), list(estimates(predictor, table).values()))
    with pytest.raises(DataError, match="not a saved memory predictor"):
        MemoryPredictor.from_json({**predictor.to_json(), "shared": {"unknown": {"f": 1}}})
