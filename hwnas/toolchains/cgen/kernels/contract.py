"""What a family of micro-kernels is asked and what it answers: C code of our own in the place of generated code.

A family is a module with a function `kernel(request) -> Kernel | None`. Its choice follows from the shapes, types and
kind of rescaling of a group and from the core, so that a row that was measured on drawn weights holds for trained
ones. Where numbers have a say, the kernel's name tells, and names stand in rows and artifacts:

- the kind of rescaling itself: drawn scales are powers of two, as those of `hwnas.graph.quantize` are by default;
- DSP products: a zero point of the result that is odd (ours are even), or a channel whose shift is very long, costs one
  instruction for each result (`shift+zero`); a weight of -128 beside a negative one (symmetric quantisation, ours too, ends at
  -127) and a shift by one are left to the scalar kernels;
- a sum or mean so large that 32 bits may not hold it is left to the next family, or to generated code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hwnas.graph.quantised import Group
from hwnas.toolchains.cgen.recipes import Array, Recipe

Core = Literal["portable", "scalar", "dsp", "mve"]
"""What code is written for: any computer, or a Cortex-M by what its integer unit can do."""
CORES: tuple[Core, ...] = get_args(Core)

_CORES: dict[str, Core] = {
    "cortex-m0": "scalar", "cortex-m0plus": "scalar", "cortex-m3": "scalar", "cortex-m23": "scalar",
    "cortex-m4": "dsp", "cortex-m7": "dsp", "cortex-m33": "dsp", "cortex-m55": "mve", "cortex-m85": "mve",
}  # fmt: skip


def core_of(cpu: str) -> Core:
    """The core of a microcontroller by its compiler's name (`-mcpu`), extensions behind a plus sign left out."""
    return _CORES.get(cpu.split("+")[0], "scalar")


@dataclass(frozen=True, slots=True)
class Request:
    """A quantised group to be computed on a core.

    Its shapes are ONNX's (NCHW); in memory every activation of four axes is NHWC, all others lie as ONNX has them.
    """

    group: Group
    recipe: Recipe
    core: Core


@dataclass(frozen=True, slots=True)
class Kernel:
    """A micro-kernel that computes a group: `name` says which, as in ``conv4x2/dsp/NHWC``.

    The C function `function` of the files `sources` (in `kernels/c`, in order of dependence) is called once with the
    activations, the `arrays` (constants in flash), the result, `scratch_bytes` of workspace where that is not 0, and
    the `integers` as literals.
    """

    name: str
    function: str
    arrays: tuple[Array, ...]
    integers: tuple[int, ...]
    scratch_bytes: int = 0
    sources: tuple[str, ...] = ()
