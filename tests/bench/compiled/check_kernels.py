"""Which kernel of a network computes something else with its schedule than without.

Run: python -m tests.bench.compiled.check_kernels NETWORK [--int8]
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np

from tests.bench.compiled.engines import host_target, relative_error
from tests.bench.compiled.kernels import random_values
from tests.bench.compiled.networks import network, quantised

ALLOWED = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--int8", action="store_true", help="the quantised form")
    settings = parser.parse_args()
    from hwnas.toolchains.schedules.isa import isa_of
    from hwnas.toolchains.schedules.pipeline import apply_rules, fused

    target = host_target()
    isa = isa_of(target)
    plain = fused(quantised(settings.network) if settings.int8 else network(settings.network), isa, target).module
    scheduled, uncovered = apply_rules(plain, isa)
    for reason in uncovered:
        print(f"UNCOVERED {reason[:300]}")
    wanted, found = (_functions(module, target) for module in (plain, scheduled))
    rng, wrong = np.random.default_rng(0), 0
    for name, (library, parameters) in sorted(wanted.items()):
        values = [random_values(rng, *parameter) for parameter in parameters]
        outputs = [_run(made, name, values) for made in (found[name][0], library)]
        error = relative_error(outputs[0].astype(np.float64), outputs[1].astype(np.float64))
        if not error <= ALLOWED:
            wrong += 1
            shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape, _ in parameters)
            print(f"WRONG {error:8.1e}  {name}: {shapes}")
    print(f"{wrong} of {len(wanted)} kernels compute something else with their schedules than without")
    sys.exit(1 if wrong else 0)


def _functions(module: Any, target: Any) -> dict[str, tuple[Any, list[tuple[tuple[int, ...], str]]]]:
    """By name: the library that holds a kernel, and shape and type of its parameters."""
    import tvm
    from tvm import relax

    from hwnas.toolchains.schedules.objects import pass_options

    module = relax.transform.AttachGlobalSymbol()(module)
    kernels = {v: f for v, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    with tvm.transform.PassContext(opt_level=3, config=pass_options(target)):
        library = tvm.tirx.build(tvm.IRModule(kernels), target=target)
    return {
        variable.name_hint: (library, [(tuple(int(d) for d in p.shape), str(p.dtype)) for p in function.params])
        for variable, function in kernels.items()
    }


def _run(library: Any, name: str, values: list[np.ndarray]) -> np.ndarray:
    import tvm

    arguments = [tvm.runtime.tensor(value) for value in values]
    library[name](*arguments)
    result: np.ndarray = arguments[-1].numpy()
    return result


if __name__ == "__main__":
    main()
