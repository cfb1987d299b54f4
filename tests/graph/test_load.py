from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwnas.errors import DataError, HwnasError, UnsupportedOperator
from hwnas.graph.analysis import analyse_workload
from hwnas.graph.fusion import split
from hwnas.graph.load import load_onnx
from hwnas.graph.session import open_session
from hwnas.graph.workloads import materialize
from tests.graph.networks import LIGHT, exported, feeds, graph, light_path, ones, session

make = helper.make_node


def saved(network: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(network.SerializeToString())
    return path


def open_network(dims: list[int | str]) -> onnx.ModelProto:
    network = graph([make("Relu", ["x"], ["y"])], {"x": (1, 3, 8, 8)})
    del network.graph.input[:]
    network.graph.input.append(helper.make_tensor_value_info("x", 1, dims))
    return network


@pytest.mark.parametrize("name", LIGHT)
def test_light_networks_load_split_materialize_and_run(name: str) -> None:
    network = load_onnx(light_path(name))
    assert network.opset_import[0].version == 18
    assert not {n.op_type for n in network.graph.node} & {"ConstantOfShape", "Dropout", "Shape", "Sum"}
    for rules in ("ort", "tvm"):
        found = split(network, rules)
        assert sum(found.parts.values()) == len(found.order)
        assert set(found.order) == set(found.workloads) == set(found.parts)
    for workload in found.workloads.values():
        facts = analyse_workload(workload)
        if facts.params > 10**7 or facts.macs > 5 * 10**8:
            continue  # the classifiers of VGG and AlexNet take half a gigabyte, the body of VGG 20 GMAC
        running = session(materialize(workload), optimise=False)
        assert all(np.isfinite(out).all() for out in running.run(None, feeds(running)))


@pytest.mark.parametrize("name", ["squeezenet", "resnet50", "densenet121", "shufflenet"])
def test_loading_does_not_change_the_function(name: str) -> None:
    loaded, original = session(load_onnx(light_path(name))), session(onnx.load(light_path(name)))
    feed = feeds(loaded)
    expected = original.run(None, feed)[0]
    np.testing.assert_allclose(loaded.run(None, feed)[0], expected, rtol=2e-3, atol=1e-6 * abs(expected).max())


def test_normalisation_and_channel_constants_fold_into_the_convolution(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=4).astype(np.float32) for name in "sbm"} | {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "v": rng.uniform(0.5, 1, 4).astype(np.float32),
        "k": rng.normal(size=(4, 1, 1)).astype(np.float32),
    }
    nodes = [make("Conv", ["x", "w"], ["a"]), make("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
             make("Mul", ["k", "c"], ["d"]), make("Add", ["d", "k"], ["y"])]  # fmt: skip
    network = graph(nodes, {"x": (1, 3, 8, 8)}, weights)
    loaded = load_onnx(saved(network, tmp_path))
    assert [n.op_type for n in loaded.graph.node] == ["Conv"]
    feed = feeds(session(loaded))
    np.testing.assert_allclose(
        session(loaded).run(None, feed)[0], session(network, optimise=False).run(None, feed)[0], rtol=1e-4, atol=1e-5
    )


def test_a_value_that_others_read_is_not_folded_away(tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Mul", ["a", "k"], ["b"]), make("Add", ["a", "b"], ["y"])]
    loaded = load_onnx(saved(graph(nodes, {"x": (1, 3, 8, 8)}, {"w": ones(4, 3, 1, 1), "k": ones(4, 1, 1)}), tmp_path))
    assert [n.op_type for n in loaded.graph.node] == ["Conv", "Mul", "Add"]


def test_a_constant_that_broadens_the_result_is_not_folded(tmp_path: Path) -> None:
    weights = {"w": ones(4, 3, 1), "k": ones(4, 1, 1)}
    loaded = load_onnx(
        saved(
            graph([make("Conv", ["x", "w"], ["a"]), make("Mul", ["a", "k"], ["y"])], {"x": (1, 3, 8)}, weights),
            tmp_path,
        )
    )
    assert [n.op_type for n in loaded.graph.node] == ["Conv", "Mul"]


def test_open_shapes_name_the_input_and_the_fix(tmp_path: Path) -> None:
    path = saved(open_network(["N", 3, "h", "w"]), tmp_path)
    with pytest.raises(DataError, match=r"net.onnx: input 'x' has the open shape Nx3xhxw; .* --shape x=1x3x224x224"):
        load_onnx(path)
    loaded = load_onnx(path, shapes={"x": (1, 3, 16, 16)})
    assert [d.dim_value for d in loaded.graph.output[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    with pytest.raises(DataError, match="input 'x' of shape Nx3xhxw cannot be given the shape 1x4x16x16"):
        load_onnx(path, shapes={"x": (1, 4, 16, 16)})
    with pytest.raises(DataError, match="the network has no input 'z'"):
        load_onnx(path, shapes={"z": (1, 3, 16, 16)})


def test_an_input_without_any_shape_is_open(tmp_path: Path) -> None:
    network = open_network(["N"])
    network.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(DataError, match=r"input 'x' has the open shape unknown; .* --shape x=1x3x224x224"):
        load_onnx(saved(network, tmp_path))


def test_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input 'x' of shape 8x3x4x4 has batch 8; export it with batch 1"):
        load_onnx(saved(open_network([8, 3, 4, 4]), tmp_path))


def test_shapes_that_depend_on_data_are_refused(tmp_path: Path) -> None:
    network = graph([make("NonZero", ["x"], ["a"]), make("Cast", ["a"], ["y"], to=1)], {"x": (1, 4)})
    with pytest.raises(DataError, match="the shape of tensor .* is not static"):
        load_onnx(saved(network, tmp_path))


def test_missing_empty_and_garbage_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.onnx: cannot be read: No such file"):
        load_onnx(tmp_path / "absent.onnx")
    with pytest.raises(DataError, match="is not a file|cannot be read"):
        load_onnx(tmp_path)
    for data in (b"", b"not an onnx file", bytes(range(256)) * 4):
        (tmp_path / "bad.onnx").write_bytes(data)
        with pytest.raises(DataError, match="bad.onnx: is not an ONNX file"):
            load_onnx(tmp_path / "bad.onnx")


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.graph.load.MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 are allowed"):
        load_onnx(saved(open_network([1, 3]), tmp_path))


def small() -> onnx.ModelProto:
    nodes = [
        make("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        make("Shape", ["a"], ["s"]),
        make("Reshape", ["a", "s"], ["y"]),
    ]
    return graph(nodes, {"x": (1, 3, 8, 8)}, {"w": ones(4, 3, 3, 3)})


@settings(max_examples=300, deadline=None)
@given(cut=st.floats(0, 1), flip=st.integers(0, 10**6), value=st.integers(0, 255))
def test_damaged_files_raise_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory, cut: float, flip: int, value: int
) -> None:
    data = bytearray(small().SerializeToString())
    data[flip % len(data)] = value
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(data[: int(cut * len(data))])
    try:
        load_onnx(path)
    except HwnasError:
        pass


@pytest.mark.parametrize("name", [b"little", b"Conv"])
def test_a_name_that_is_not_text_is_a_data_error(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(small().SerializeToString().replace(name, b"\x80" + name[1:]))
    with pytest.raises(DataError, match=r"net.onnx: holds a (name|op_type) that is not text: b'.x80"):
        load_onnx(path)


@pytest.mark.parametrize(("dims", "reason"), [
    ([4, 3, 3, 2], "tensor 'w' of shape 4x3x3x2 needs 288 bytes and holds 432"),
    ([4, 3, -3, -3], "tensor 'w' declares a negative size"),
])  # fmt: skip
def test_a_tensor_that_lies_about_its_size_is_a_data_error(tmp_path: Path, dims: list[int], reason: str) -> None:
    network = small()
    network.graph.initializer[0].dims[:] = dims
    onnx.save(network, tmp_path / "net.onnx")
    with pytest.raises(DataError, match=f"net.onnx: {reason}"):
        load_onnx(tmp_path / "net.onnx")


def test_a_tensor_with_too_few_numbers_is_a_data_error(tmp_path: Path) -> None:
    network = small()
    network.graph.initializer[0].ClearField("raw_data")
    network.graph.initializer[0].float_data.extend([1.0] * 5)
    onnx.save(network, tmp_path / "net.onnx")
    with pytest.raises(DataError, match="net.onnx: tensor 'w' does not hold what it declares"):
        load_onnx(tmp_path / "net.onnx")


def test_a_tensor_of_an_unknown_type_is_a_data_error(tmp_path: Path) -> None:
    network = small()
    network.graph.initializer[0].data_type = 99
    onnx.save(network, tmp_path / "net.onnx")
    with pytest.raises(DataError, match="net.onnx: tensor 'w' is of the unknown type 99"):
        load_onnx(tmp_path / "net.onnx")


def test_a_truncated_file_is_a_data_error(tmp_path: Path) -> None:
    data = exported("residual").SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut.onnx: is not an ONNX file, or is cut short"):
        load_onnx(path)


def external(location: str, length: int | None = None) -> onnx.ModelProto:
    network = graph([make("Add", ["x", "w"], ["y"])], {"x": (1, 4)}, {"w": ones(4)})
    tensor = network.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if length is not None:
        tensor.external_data.add(key="length", value=str(length))
    return network


def test_external_data_in_the_own_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(2 * ones(4))
    loaded = load_onnx(saved(external("weights.bin", 16), tmp_path))
    assert session(loaded).run(None, {"x": ones(1, 4)})[0].tolist() == [[3.0] * 4]


def test_external_data_outside_the_own_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(ones(4))
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.bin").symlink_to(tmp_path / "secret.bin")
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "."):
        with pytest.raises(DataError, match="outside the network's own folder"):
            load_onnx(saved(external(location, 16), inner))


@pytest.mark.parametrize(
    ("location", "length"), [("weights.bin", 64), ("weights.bin", -4), ("absent.bin", 16), ("", 16)]
)
def test_external_data_that_is_missing_or_short_is_refused(tmp_path: Path, location: str, length: int) -> None:
    (tmp_path / "weights.bin").write_bytes(ones(4))
    with pytest.raises(DataError, match="tensor 'w'"):
        load_onnx(saved(external(location, length), tmp_path))


def test_external_data_in_attributes_is_checked_too(tmp_path: Path) -> None:
    network = graph(
        [make("Constant", [], ["w"], value=helper.make_tensor("v", 1, [1], [1.0])), make("Add", ["x", "w"], ["y"])],
        {"x": (1, 4)},
    )
    tensor = network.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(DataError, match="outside the network's own folder"):
        load_onnx(saved(network, tmp_path))


def test_unsupported_operators_are_named(tmp_path: Path) -> None:
    foreign = graph([make("Swirl", ["x"], ["y"], domain="org.example", name="s1")], {"x": (1, 4)})
    foreign.opset_import.add(domain="org.example", version=1)
    with pytest.raises(UnsupportedOperator, match="Swirl 's1': it is of domain 'org.example'"):
        load_onnx(saved(foreign, tmp_path))
    with pytest.raises(UnsupportedOperator, match="Swirl: not an operator of ONNX in opset 18"):
        load_onnx(saved(graph([make("Swirl", ["x"], ["y"])], {"x": (1, 4)}), tmp_path))
    branch = helper.make_graph(
        [make("Relu", ["x"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", 1, [1, 4])]
    )
    choice = make("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    network = graph([choice], {"x": (1, 4)}, {"c": np.array(True)})
    with pytest.raises(UnsupportedOperator, match="If: control flow has no fixed latency"):
        load_onnx(saved(network, tmp_path))


def test_opsets_that_are_too_old_or_too_new_are_refused(tmp_path: Path) -> None:
    for opset in (3, 99):
        network = graph([make("Relu", ["x"], ["y"])], {"x": (1, 4)})
        network.opset_import[0].version = opset
        with pytest.raises(DataError, match=f"opset {opset}; supported are 7 to"):
            load_onnx(saved(network, tmp_path))


def test_a_graph_that_reads_a_tensor_nobody_makes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="net.onnx: is not valid ONNX"):
        load_onnx(saved(graph([make("Relu", ["nowhere"], ["y"])], {"x": (1, 4)}), tmp_path))


def test_a_constant_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    nodes = [make("ConstantOfShape", ["s"], ["w"]), make("Add", ["x", "w"], ["y"])]
    network = graph(nodes, {"x": (1, 4)}, {"s": np.array([2**20, 2**20, 4])})
    with pytest.raises(UnsupportedOperator, match="it makes a constant of shape"):
        load_onnx(saved(network, tmp_path))


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_network_of_another_opset_keeps_its_large_weights_and_its_outputs(opset: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((16, 8, 3, 3)).astype(np.float32), "w")  # 4.5 KiB
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            onnx.helper.make_node("Relu", ["c"], ["y"]),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 6, 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 16, 6, 6])],
        [weight],
    )
    network = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(network, str(tmp_path / "n.onnx"))
    loaded = load_onnx(tmp_path / "n.onnx")
    assert [i.name for i in loaded.graph.input] == ["x"]
    x = rng.standard_normal((1, 8, 6, 6)).astype(np.float32)
    outputs = [
        open_session(m.SerializeToString(), {"threads": 1, "graph_optimization": "none"}).run(None, {"x": x})[0]
        for m in (network, loaded)
    ]
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5
