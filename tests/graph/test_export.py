from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwnas.errors import BuildError
from hwnas.graph.export import export
from hwnas.graph.simplify import simplify
from tests.graph.networks import FAMILIES, exported, feeds, graph, module, ones, session


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_network_computes_what_torch_computes(family: str) -> None:
    network = exported(family)
    running = session(network)
    feed = feeds(running)
    with torch.no_grad():
        expected = module(family)(torch.tensor(feed["input"])).numpy()
    np.testing.assert_allclose(running.run(None, feed)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_network_holds_only_what_runs(family: str) -> None:
    network = exported(family)
    onnx.checker.check_model(network, full_check=True)
    assert not {n.op_type for n in network.graph.node} & {"Constant", "Identity", "Dropout", "BatchNormalization"} - (
        {"BatchNormalization"} if family == "cell" else set()
    )
    read = {name for node in network.graph.node for name in node.input}
    assert {t.name for t in network.graph.initializer} <= read
    assert network.opset_import[0].version == 18
    assert [d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim] == list(FAMILIES[family][1])


def test_export_is_deterministic_and_leaves_the_module_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
    net.train()
    net[1].eval()
    first, second = export(net, (1, 3, 8, 8)), export(net, (1, 3, 8, 8))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert [part.training for part in net] == [True, False, True, True]
    assert [n.op_type for n in first.graph.node] == ["Conv", "Relu"]
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""


def test_a_module_that_torch_cannot_export_is_a_build_error() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(BuildError, match="torch cannot export Branches to ONNX"):
        export(Branches(), (1, 3))


def test_identity_and_dropout_vanish_wherever_they_are() -> None:
    make = onnx.helper.make_node
    network = graph(
        [make("Identity", ["x"], ["a"]), make("Relu", ["a"], ["b"]), make("Dropout", ["b"], ["c"]),
         make("Identity", ["c"], ["d"]), make("Add", ["d", "b"], ["e"]), make("Identity", ["e"], ["y"])],
        {"x": (1, 4)},
    )  # fmt: skip
    simple = simplify(network)
    assert [n.op_type for n in simple.graph.node] == ["Relu", "Add"]
    assert simple.graph.output[0].name == "y"
    feed = {"x": ones(1, 4)}
    assert np.array_equal(session(simple).run(None, feed)[0], session(network).run(None, feed)[0])


def test_an_identity_from_input_to_output_is_kept() -> None:
    simple = simplify(graph([onnx.helper.make_node("Identity", ["x"], ["y"])], {"x": (1, 4)}))
    assert [n.op_type for n in simple.graph.node] == ["Identity"]


def test_one_tensor_given_out_under_two_names_stays_so() -> None:
    make = onnx.helper.make_node
    network = graph(
        [make("Relu", ["x"], ["a"]), make("Identity", ["a"], ["y"]), make("Identity", ["a"], ["z"])],
        {"x": (1, 4)},
        outputs=("y", "z"),
    )
    simple = simplify(network)
    out = session(simple).run(["y", "z"], {"x": -ones(1, 4)})
    assert not out[0].any() and not out[1].any()


def test_shape_arithmetic_is_computed() -> None:
    make = onnx.helper.make_node
    network = graph(
        [make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"]), make("Concat", ["n", "rest"], ["t"], axis=0),
         make("Reshape", ["x", "t"], ["r"]), make("Relu", ["r"], ["y"])],
        {"x": (1, 2, 3)},
        {"zero": np.array([0]), "rest": np.array([-1])},
    )  # fmt: skip
    simple = simplify(network)
    assert [n.op_type for n in simple.graph.node] == ["Reshape", "Relu"]
    assert [d.dim_value for d in simple.graph.output[0].type.tensor_type.shape.dim] == [1, 6]


def test_weights_named_like_numbered_tensors_do_not_clash() -> None:
    make = onnx.helper.make_node
    network = graph([make("Add", ["x", "t0"], ["q"]), make("Relu", ["q"], ["y"])], {"x": (1, 4)}, {"t0": ones(4)})
    simple = simplify(network)
    onnx.checker.check_model(simple, full_check=True)
    assert session(simple).run(None, {"x": ones(1, 4)})[0].tolist() == [[2.0] * 4]
