"""Every registered toolchain under the shipped contract, and what each says of bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import registry
from hwnas.config import load_device
from hwnas.core.device import Device
from hwnas.core.interfaces import Toolchain
from hwnas.errors import BuildError, ConfigError
from hwnas.graph.session import open_session
from hwnas.runners.local import LocalRunner
from hwnas.testing import ToolchainContract, small_network
from hwnas.toolchains import tvm as tvm_module
from hwnas.toolchains.builder import BuildPool, build_one

HOST_TOOLCHAINS = load_device("host").toolchains
"""Those that build for this computer; the others have suites of their own."""


class TestEveryToolchain(ToolchainContract):
    @pytest.fixture(params=HOST_TOOLCHAINS)
    def toolchain(self, request: pytest.FixtureRequest) -> Toolchain:
        found: Toolchain = registry.toolchains.load(request.param)()
        return found

    @pytest.fixture
    def device(self) -> Device:
        return load_device("host")


@pytest.mark.parametrize("name", HOST_TOOLCHAINS)
def test_what_was_built_computes_what_onnx_says(name: str, tmp_path: Path) -> None:
    device, network = load_device("host"), small_network()
    x = np.random.default_rng(0).standard_normal((1, 1, 12, 12)).astype(np.float32)
    reference = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    expected = reference.run(None, {reference.get_inputs()[0].name: x})[0]
    board = LocalRunner().open(device)
    try:
        [output] = board.outputs(build_one(name, network, device, tmp_path / "built"), [x], 60.0)
    finally:
        board.close()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-6)


def test_builds_run_side_by_side_and_a_failure_costs_one(tmp_path: Path) -> None:
    bad = small_network()
    bad.graph.node[0].op_type = "Frobnicate"
    with BuildPool("ort", load_device("host")) as pool:
        results = list(
            pool.build([(n, tmp_path / str(i)) for i, n in enumerate([small_network(), bad, small_network(16)])])
        )
    assert [isinstance(r, BuildError) for r in results] == [False, True, False]
    assert "Frobnicate" in str(results[1])


def test_a_build_that_takes_too_long_is_a_build_error(tmp_path: Path) -> None:
    with BuildPool("tvm", load_device("host"), workers=1, timeout_s=0.05) as pool:
        [result] = pool.build([(small_network(), tmp_path / "slow")])
    assert isinstance(result, BuildError)
    assert "build deadline" in str(result)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.15.post2"}, r"tvm-ffi 0\.1\.15 .*pip install"),
        ({"apache-tvm": "0.26.0", "apache-tvm-ffi": "0.1.14"}, r"apache-tvm 0\.26\.0 is not supported"),
    ],
)
def test_a_pair_that_would_crash_is_refused(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(tvm_module, "version", versions.__getitem__)
    with pytest.raises(BuildError, match=message):
        tvm_module.check_versions()


@pytest.mark.parametrize(
    ("toolchain", "options", "message"),
    [
        ("tvm", {"tread": 1}, "did you mean threads"),
        ("ort", {"graph_optimization": "al"}, "did you mean all"),
    ],
)
def test_options_that_nobody_knows(toolchain: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    device = load_device("host").model_copy(update={"options": {toolchain: options}})
    with pytest.raises(ConfigError, match=message):
        registry.toolchains.load(toolchain)().build(small_network(), device, tmp_path / "built")


def test_a_quantised_operator_is_answered_with_the_way_out() -> None:
    import onnx

    node = onnx.helper.make_node("QLinearConv", ["x"], ["y"], name="q")
    reason = registry.toolchains.load("tvm")().unsupported(node)
    assert reason is not None
    assert "QDQ" in reason
