"""A network as one function: what it computes, what shares memory, and which networks stay with the virtual machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.toolchains.schedules.driver import ALIGNMENT, NAME, driven
from hwnas.toolchains.schedules.objects import ObjectCache, link_library
from tests.toolchains.schedules.operators import Array, network, node, normal, target

SIZE = 24


def halves() -> Any:
    """A kernel of two results: the first and the second half of a tensor."""
    from tvm import te

    given, half = te.placeholder((SIZE,), name="x"), SIZE // 2
    first = te.compute((half,), lambda i: given[i], name="first")
    return te.create_prim_func([given, first, te.compute((half,), lambda i: given[i + half], name="second")])


def sum_of(count: int, shape: tuple[int, ...] = (SIZE,), dtype: str = "float32") -> Any:
    """A kernel that adds up `count` tensors of a shape."""
    from tvm import te

    given = [te.placeholder(shape, dtype, name=f"x{k}") for k in range(count)]
    return te.create_prim_func([*given, te.compute(shape, lambda *i: sum((x[i] for x in given[1:]), given[0][i]))])


class Network:
    """Writes a main of calls; tensors are of one shape unless said."""

    def __init__(self, inputs: int = 1) -> None:
        from tvm import relax

        self.builder = relax.BlockBuilder()
        self.inputs = [relax.Var(f"x{k}", relax.TensorType((SIZE,), "float32")) for k in range(inputs)]
        self._function = self.builder.function("main", self.inputs)
        self._function.__enter__()

    def add(self, *values: Any, shape: tuple[int, ...] = (SIZE,)) -> Any:
        from tvm import relax

        kernel = self.builder.add_func(sum_of(len(values), shape), "sum")
        return self.builder.emit(relax.call_tir(kernel, list(values), relax.TensorType(shape, "float32")))

    def divided(self, value: Any) -> tuple[Any, Any]:
        """Both halves of a tensor, made by one kernel."""
        from tvm import relax

        kind = relax.TensorType((SIZE // 2,), "float32")
        made = self.builder.emit(relax.call_tir(self.builder.add_func(halves(), "halves"), [value], [kind, kind]))
        one, other = (self.builder.emit(relax.TupleGetItem(made, k)) for k in range(2))
        return one, other

    def returning(self, result: Any) -> Any:
        self.builder.emit_func_output(result)
        self._function.__exit__(None, None, None)
        return self.builder.get()


def constant(*values: float) -> Any:
    from tvm import relax

    return relax.const(np.resize(np.array(values, np.float32), SIZE))


def loaded(module: Any, folder: Path, name: str = "n") -> Callable[..., Any]:
    """The main of a module's library."""
    import tvm
    from tvm import relax

    link_library(module, target(), folder / f"{name}.so", kept=ObjectCache(folder / "kept"))
    main: Callable[..., Any] = relax.VirtualMachine(tvm.runtime.load_module(str(folder / f"{name}.so")), tvm.cpu())[
        "main"
    ]
    return main


def run(module: Any, folder: Path, inputs: Sequence[Array]) -> list[Array]:
    import tvm

    found = loaded(module, folder)(*(tvm.runtime.tensor(array) for array in inputs))
    return [found.numpy()] if hasattr(found, "numpy") else [value.numpy() for value in found]


def calls(module: Any) -> list[str]:
    """The PrimFuncs that main calls."""
    from hwnas.toolchains.schedules.pipeline import calls_of

    return sorted(calls_of(module).elements())


X = np.arange(SIZE, dtype=np.float32)


def chain(network: Network) -> Any:
    """2 x, 4 x, ...: the same kernel again and again."""
    value = network.inputs[0]
    for _ in range(5):
        value = network.add(value, value)
    return value


def diamond(network: Network) -> Any:
    """A result that is read much later than others are made: 3 x + 6."""
    early = network.add(network.inputs[0], constant(1.0))
    late = early
    for _ in range(3):
        late = network.add(late, constant(0.5), constant(0.5))
    return network.add(early, late, network.inputs[0], constant(1.0))


def seen_otherwise(network: Network) -> Any:
    """A view of a parameter and one of a result: 2 x + 2, in another shape."""
    from tvm import relax

    emit, shape = network.builder.emit, (2, SIZE // 2)
    moved = emit(relax.op.reshape(network.add(network.inputs[0], constant(2.0)), shape))
    return network.add(moved, emit(relax.op.reshape(network.inputs[0], shape)), shape=shape)


def last_view(network: Network) -> Any:
    """A view is what the network returns: 2 x."""
    from tvm import relax

    return network.builder.emit(relax.op.reshape(network.add(*network.inputs * 2), (4, SIZE // 4)))


def several(network: Network) -> Any:
    """Two results, of which one is read by a kernel as well: 2 x and 3 x."""
    from tvm import relax

    first = network.add(*network.inputs * 2)
    return relax.Tuple([first, network.add(first, network.inputs[0])])


def bound(network: Network) -> Any:
    """Two results as TVM's importer writes them: a variable that stands for both. 2 x, and 3 x in another shape."""
    from tvm import relax

    first = network.add(*network.inputs * 2)
    other = network.builder.emit(relax.op.reshape(network.add(first, network.inputs[0]), (2, SIZE // 2)))
    return network.builder.emit(relax.Tuple([first, other]))


def cut(network: Network) -> Any:
    """Kernels of two results: all of the first one's are read, the last one's half is returned, another never read."""
    from tvm import relax

    early, late = network.divided(network.add(*network.inputs * 2))
    half = (SIZE // 2,)
    total = network.add(early, late, shape=half)
    _, last = network.divided(network.inputs[0])
    return network.builder.emit(relax.Tuple([network.add(total, late, early, shape=half), last]))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (chain, [32 * X]),
        (diamond, [3 * X + 6]),
        (seen_otherwise, [(2 * X + 2).reshape(2, -1)]),
        (last_view, [(2 * X).reshape(4, -1)]),
        (several, [2 * X, 3 * X]),
        (bound, [2 * X, (3 * X).reshape(2, -1)]),
        (cut, [4 * (X[: SIZE // 2] + X[SIZE // 2 :]), X[SIZE // 2 :]]),
    ],
)
def test_one_call_computes_what_many_do(make: Callable[[Network], Any], wanted: list[Array], tmp_path: Path) -> None:
    network = Network()
    module = network.returning(make(network))
    found = driven(module)
    assert found is not None and calls(found.module) == [NAME]
    for one, other in zip(run(module, tmp_path, [X]), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_kernel_of_many_calls_has_a_symbol_for_each() -> None:
    network = Network()
    found = driven(network.returning(chain(network)))
    assert found is not None
    assert len({new for new, _ in found.aliases}) == len(found.aliases) == 4
    assert len({known for _, known in found.aliases}) == 1


def test_results_share_memory_and_equal_constants_are_one() -> None:
    network = Network()
    found = driven(network.returning(diamond(network)))
    assert found is not None
    _, constants, workspace, _ = found.module[NAME].params
    room = -(-SIZE * 4 // ALIGNMENT) * ALIGNMENT
    assert int(constants.shape[0]) == 2 * room, "1.0 and 0.5"
    assert int(workspace.shape[0]) == 3 * room, "the early one, one that is read and one that is written"


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    network = Network()
    module = network.returning(chain(network))
    with pytest.raises(Exception, match="shape|Mismatched"):
        run(module, tmp_path, [X[:-1].copy()])


def test_an_array_that_is_not_in_one_piece_is_refused(tmp_path: Path) -> None:
    """An array of numpy's is not copied on its way to a kernel."""
    made = Network()
    main = loaded(made.returning(chain(made)), tmp_path)
    with pytest.raises(Exception, match="strides"):
        main(np.zeros(2 * SIZE, np.float32)[::2])


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float64"])
def test_tensors_of_any_type_and_scalars(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    import tvm
    from tvm import relax, te, tirx

    x, y = (te.placeholder(shape, dtype, name=name) for name in "xy")
    kernel = te.create_prim_func(
        [x, y, te.compute(shape, lambda *i: tirx.any(x[i], y[i]) if dtype == "bool" else x[i] + y[i])]
    )
    builder, kind = relax.BlockBuilder(), relax.TensorType(shape, dtype)
    given = relax.Var("x", kind)
    with builder.function("main", [given]):
        called = builder.add_func(kernel, "sum")
        twice = builder.emit(relax.call_tir(called, [given, given], kind))
        builder.emit_func_output(
            builder.emit(relax.call_tir(called, [twice, relax.const(np.ones(shape, dtype), dtype)], kind))
        )
    module = builder.get()
    assert driven(module) is not None
    value = np.ones(shape, dtype)
    found = loaded(module, tmp_path)(tvm.runtime.tensor(value)).numpy()
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value + value + value)


def test_libraries_of_one_process_share_no_symbol_and_no_memory(tmp_path: Path) -> None:
    """The second call of a kernel has the same symbol in both; each is called by several threads."""
    import tvm

    def twofold(network: Network) -> Any:
        return chain(network)

    def threefold(network: Network) -> Any:
        value = network.inputs[0]
        for _ in range(5):
            value = network.add(value, value, value)
        return value

    mains = []
    for k, make in enumerate((twofold, threefold)):
        made = Network()
        module = made.returning(make(made))
        aliases = driven(module).aliases  # type: ignore[union-attr]
        assert aliases[0][0] == "hw_0"
        mains += [loaded(module, tmp_path, f"n{k}"), loaded(module, tmp_path, f"n{k}")]

    def wrong(k: int) -> int:
        given = tvm.runtime.tensor(X + k)
        wanted = (X + k) * (32 if k < 2 else 243)
        return sum(not np.array_equal(mains[k](given).numpy(), wanted) for _ in range(200))

    with ThreadPoolExecutor(len(mains)) as pool:
        assert list(pool.map(wrong, range(len(mains)))) == [0] * len(mains)


def test_networks_of_several_outputs_and_of_kernels_with_several_are_driven() -> None:
    from hwnas.toolchains.schedules.isa import isa_of
    from hwnas.toolchains.schedules.objects import without_reshapes
    from hwnas.toolchains.schedules.pipeline import fused

    made = network(
        [node("Conv", "x w", "a"), node("Split", "a", "b c", axis=1, num_outputs=2), node("Relu", "c", "d")],
        {"x": (1, 8, 6, 6)},
        ["b", "d"],
        {"w": normal(8, 8, 1, 1)},
    )
    isa = isa_of(target())
    found = driven(without_reshapes(fused(made, isa, target(), "NHWC").module))
    assert found is not None and calls(found.module) == [NAME]


def given_back(network: Network) -> Any:
    """A parameter."""
    return network.inputs[0]


def twice(network: Network) -> Any:
    """One tensor, two results."""
    from tvm import relax

    value = network.add(*network.inputs * 2)
    return relax.Tuple([value, value])


def stored(network: Network) -> Any:
    """A constant."""
    return network.builder.emit(constant(1.0))


def computed(network: Network) -> Any:
    """An operator that no kernel stands for yet."""
    from tvm import relax

    return network.builder.emit(relax.op.add(*network.inputs * 2))


@pytest.mark.parametrize("make", [given_back, twice, stored, computed])
def test_what_is_not_kernels_alone_stays_with_the_virtual_machine(make: Callable[[Network], Any]) -> None:
    network = Network()
    assert driven(network.returning(make(network))) is None


def test_a_network_that_gives_its_input_back_is_still_built(tmp_path: Path) -> None:
    network = Network()
    from tvm import relax

    module = network.returning(relax.Tuple([network.inputs[0], network.add(*network.inputs * 2)]))
    for one, other in zip(run(module, tmp_path, [X]), [X, 2 * X], strict=True):
        np.testing.assert_array_equal(one, other)
