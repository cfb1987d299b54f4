"""The ways to run a network that the benches compare: our schedules, TVM's default lowering, onnxruntime.

Each takes a network and an input, and gives a function to time: input and output buffers exist before, nothing but
the run is in it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx

Row = TypeVar("Row")
OBJECTS = "bench-objects"
"""The folder, in the cache, of kernels that a bench compiled before; their keys hold the sources of the schedules."""


@dataclass(frozen=True)
class Engine:
    """A loaded network: `run` runs it once on the input that it was loaded with.

    `outputs()` returns what it computes from that input as its first output, `outputs(x)` from another input.
    """

    run: Callable[[], object]
    outputs: Callable[..., np.ndarray]
    compile_s: float
    """Processor seconds of this process and of the linker: on a machine that others use, the wall clock tells less."""
    uncovered: tuple[str, ...] = ()
    layout_transforms: int = 0
    compiled: int = 0
    """Kernels that were compiled anew, of `kernels`."""
    kernels: int = 0
    module: Any = field(default=None, repr=False)
    """The IRModule of an engine of TVM: fused PrimFuncs, which no rule has scheduled yet."""


def host_target(threads: int = 1) -> Any:
    from hwnas.toolchains.tvm import cpu_target

    return cpu_target({"threads": threads})


def use_threads(threads: int) -> None:
    """Set the size of TVM's thread pool in this process."""
    import tvm

    tvm.get_global_func("runtime.config_threadpool")(1, threads)


def ours(network: onnx.ModelProto, given: np.ndarray, threads: int = 1, objects: Path | None = None) -> Engine:
    """The network with our schedules, linked as the toolchain links it; `objects` keeps compiled kernels."""
    from hwnas.config import cache_folder
    from hwnas.toolchains.schedules.isa import isa_of
    from hwnas.toolchains.schedules.objects import ObjectCache, link_library
    from hwnas.toolchains.schedules.pipeline import fused

    target, kept = host_target(threads), ObjectCache(objects or cache_folder() / OBJECTS)
    isa = isa_of(target)
    with tempfile.TemporaryDirectory(prefix="hwnas-bench-") as folder:
        library = Path(folder) / "network.so"
        start = processor_s()
        lowered = fused(network, isa, target)
        linked = link_library(lowered.module, target, library, kept=kept, isa=isa)
        took = processor_s() - start
        machine = loaded(library)
    run, outputs = _machine_calls(machine, given)
    return Engine(
        run,
        outputs,
        took,
        (*lowered.uncovered, *linked.uncovered),
        lowered.layout_transforms,
        linked.compiled,
        linked.kernels,
        lowered.module,
    )


def loaded(library: Path) -> Any:
    """A linked network in a Relax virtual machine."""
    import tvm
    from tvm import relax

    return relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())


def stock(network: onnx.ModelProto, given: np.ndarray) -> Engine:
    """The network with TVM's default lowering: what was built before there were schedules of our own."""
    from hwnas.toolchains.tvm_cuda import lower

    target = host_target()
    start = processor_s()
    module = lower(network, target)
    machine = executable(module, target)
    run, outputs = _machine_calls(machine, given)
    return Engine(run, outputs, processor_s() - start, module=module)


def executable(module: Any, target: Any) -> Any:
    """A scheduled IRModule, compiled and in a Relax virtual machine."""
    import tvm
    from tvm import relax

    from hwnas.toolchains.schedules.objects import pass_options

    with tvm.transform.PassContext(opt_level=3, config=pass_options(target)):
        return relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())


def _machine_calls(machine: Any, given: np.ndarray) -> tuple[Callable[[], object], Callable[..., np.ndarray]]:
    import tvm

    main, tensor = machine["main"], tvm.runtime.tensor(given)

    def outputs(other: np.ndarray | None = None) -> np.ndarray:
        result = main(tensor if other is None else tvm.runtime.tensor(other))
        found: np.ndarray = (result if hasattr(result, "numpy") else result[0]).numpy()
        return found

    return lambda: main(tensor), outputs


def onnxruntime(
    network: onnx.ModelProto | Path, given: np.ndarray, threads: int = 1, optimisation: str = "all"
) -> Engine:
    """The network in onnxruntime, with the session settings of the product's own runner."""
    from hwnas.graph.session import open_session

    start = processor_s()
    serialised = str(network) if isinstance(network, Path) else network.SerializeToString()
    session = open_session(serialised, {"threads": threads, "graph_optimization": optimisation})
    took = processor_s() - start
    binding = session.io_binding()
    name = session.get_inputs()[0].name
    binding.bind_cpu_input(name, given)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return Engine(
        lambda: session.run_with_iobinding(binding),
        lambda other=given: np.asarray(session.run(None, {name: other})[0]),
        took,
    )


def processor_s() -> float:
    """Processor seconds that this process and the children it waited for have used."""
    return sum(os.times()[:4])


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude that is wanted."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))


def first_line(error: Exception) -> str:
    """What an error says, in one line; TVM's are pages long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def measure_all(
    networks: Iterable[str], measure: Callable[[str], tuple[Row, tuple[str, ...]]]
) -> tuple[list[Row], list[str]]:
    """`measure` of each network: the rows, and what is to say of those that failed or have uncovered kernels."""
    rows, reasons = [], []
    for name in networks:
        try:
            row, uncovered = measure(name)
        except Exception as error:  # one network that cannot be compiled does not hide the others
            reasons.append(f"{name} FAILED: {first_line(error)}")
            print(f"{name:16} {reasons[-1]}", flush=True)
            continue
        rows.append(row)
        reasons += [f"{name} has an uncovered kernel, {reason[:300]}" for reason in uncovered]
    for reason in reasons:
        print(reason)
    return rows, reasons
