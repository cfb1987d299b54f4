"""The tvm toolchain: what is built costs inside a network what it costs alone, and says how it was scheduled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import LIBRARY, read_artifact
from hwnas.core.device import Device
from hwnas.core.interfaces import SearchSpace
from hwnas.core.workload import Artifact
from hwnas.errors import ConfigError
from hwnas.graph.fusion import split
from hwnas.graph.session import open_session
from hwnas.graph.workloads import materialize
from hwnas.runners.arrays import read_interface
from hwnas.runners.local import LocalBoard, LocalRunner
from hwnas.spaces.cell import CellSpace
from hwnas.spaces.mbconv import mbconv_micro, mbconv_mobile
from hwnas.toolchains.builder import BuildPool
from hwnas.toolchains.schedules import SCHEDULE, VERSION
from hwnas.toolchains.tvm import TvmToolchain

SPACES: dict[str, SearchSpace] = {
    "cell": CellSpace(resolution=16, cells=1), "mbconv-micro": mbconv_micro(),
    "mbconv-mobile": mbconv_mobile(resolution=32, classes=7),
}  # fmt: skip


@pytest.fixture(scope="module")
def board() -> Iterator[LocalBoard]:
    board = LocalRunner().open(load_device("host"))
    yield board
    board.close()


def network(space: str, seed: int = 0) -> ModelProto:
    found: ModelProto = SPACES[space].graph(SPACES[space].sample(np.random.default_rng(seed)))  # type: ignore[attr-defined]
    return found


def built(networks: list[ModelProto], folder: Path, device: Device | None = None) -> list[Artifact]:
    with BuildPool("tvm", device or load_device("host"), workers=1) as pool:
        found = list(pool.build([(n, folder / str(i)) for i, n in enumerate(networks)]))
    assert all(isinstance(a, Artifact) for a in found), found
    return found  # type: ignore[return-value]


def assert_computes(board: LocalBoard, artifact: Artifact, model: ModelProto) -> None:
    """The outputs are those of onnxruntime, for inputs and outputs in the network's own layout."""
    session = open_session(model.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    for made, expected in zip(
        board.outputs(artifact, list(inputs.values()), 60.0), session.run(None, inputs), strict=True
    ):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("space", SPACES)
def test_every_workload_is_one_kernel_under_a_rule_and_needs_no_change_of_layout(
    space: str, board: LocalBoard, tmp_path: Path
) -> None:
    whole = network(space)
    parts = split(whole, "tvm")
    models = [materialize(workload) for workload in parts.workloads.values()]
    [together, *alone] = built([whole, *models], tmp_path)
    assert together.uncovered == ()
    assert len(parts.workloads) <= (together.kernels or 0) <= len(parts.order) + together.layout_transforms
    for workload, model, artifact in zip(parts.workloads.values(), models, alone, strict=True):
        assert (artifact.kernels, artifact.layout_transforms, artifact.uncovered) == (1, 0, ()), workload.op
        assert_computes(board, artifact, model)
    assert_computes(board, together, whole)
    code = sum(artifact.memory["code"] for artifact in alone)
    near = 0.02 if together.kernels == len(alone) else 0.25  # where TVM has fused an addition with the other operand
    assert code == pytest.approx(together.memory["code"], rel=near), "a kernel takes in a network what it takes alone"
    assert together.memory["code"] + together.memory["constants"] < together.memory["flash"] == together.flash_bytes
    assert TvmToolchain().flash_bytes(whole) == pytest.approx(together.flash_bytes, rel=0.25)


def test_a_network_keeps_its_interface_and_a_workload_is_told_channels_last(tmp_path: Path) -> None:
    whole = network("mbconv-mobile")
    first = split(whole, "tvm")
    conv = materialize(first.workloads[first.order[0]])
    [together, alone] = (read_interface(Path(a.path)) for a in built([whole, conv], tmp_path))
    assert together.inputs == (((1, 3, 32, 32), "float32"),)
    assert together.input_axes == (None,)
    assert alone.inputs == (((1, 32, 32, 3), "float32"),)
    assert (alone.input_axes, alone.output_axes) == (((0, 2, 3, 1),), ((0, 2, 3, 1),))


def test_an_artifact_names_schedule_version_and_coverage(tmp_path: Path) -> None:
    [artifact] = built([network("cell")], tmp_path)
    assert artifact.schedule == SCHEDULE == f"hwnas-cpu-{VERSION}"
    assert artifact.version.endswith(f"+schedules{VERSION}")
    assert artifact.layout_transforms == 1, "the image comes in with its channels first"
    again = read_artifact(Path(artifact.path))
    assert (again.kernels, again.layout_transforms, again.uncovered) == (artifact.kernels, 1, ())


def test_threads_share_the_loops_of_what_takes_long(tmp_path: Path) -> None:
    model = mbconv_mobile(resolution=96, classes=7)
    whole = model.graph(model.sample(np.random.default_rng(0)))
    host = load_device("host")
    device = host.model_copy(update={"options": {**host.options, "tvm": {"threads": 2}}})
    [one, two] = (built([whole], tmp_path / d.name / str(k), d)[0] for k, d in enumerate((host, device)))
    launches = [(Path(a.path) / LIBRARY).read_bytes().count(b"ParallelLaunch") for a in (one, two)]
    assert launches[0] == 0 < launches[1]
    assert two.uncovered == ()
    assert two.options["threads"] == 2
    shared = LocalRunner().open(device)
    try:
        assert_computes(shared, two, whole)
    finally:
        shared.close()


@pytest.mark.parametrize("part", ["RULES", "LEGAL"])
def test_what_no_rule_covers_is_named_and_computed_all_the_same(part: str, board: LocalBoard, tmp_path: Path) -> None:
    """The rule or the legalisation of convolutions is broken in a process of its own, which builds."""
    code = (
        "import sys, onnx; from pathlib import Path; from hwnas.config import load_device;"
        "from hwnas.toolchains.schedules import convolution; from hwnas.toolchains.tvm import TvmToolchain\n"
        "def broken(*given): raise ValueError('no tile')\n"
        "if sys.argv[3] == 'RULES': convolution.RULES = dict.fromkeys(convolution.RULES, broken)\n"
        "else: convolution.LEGAL = dict.fromkeys(convolution.LEGAL, lambda isa: broken)\n"
        "TvmToolchain().build(onnx.load(sys.argv[1]), load_device('host'), Path(sys.argv[2]))"
    )
    model = network("cell")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.onnx", tmp_path / "built", part], check=True, timeout=300,
        env={**os.environ, "HWNAS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    artifact = read_artifact(tmp_path / "built")
    assert 0 < len(artifact.uncovered) < (artifact.kernels or 0)
    assert all("ValueError: no tile" in name for name in artifact.uncovered)
    assert_computes(board, artifact, model)


@pytest.mark.parametrize("options, message", [
    ({"threads": 0}, "from 1 to 1024"), ({"threads": "two"}, "from 1 to 1024"), ({"threads": True}, "from 1 to 1024"),
    ({"mattr": "+neon"}, "is a list such as"), ({"target": "gpu"}, "unknown target"), ({"cpu": "a72"}, "unknown option"),
    ({"target": "cross", "mtriple": "riscv64-linux-gnu", "compiler": sys.executable}, "no core of isa.yaml is near it"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    host = load_device("host")
    device = host.model_copy(update={"options": {"tvm": options}})
    with pytest.raises(ConfigError, match=message):
        TvmToolchain().build(network("cell"), device, tmp_path)
