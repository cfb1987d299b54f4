"""The CPU's part of a partition as TVM builds it for the companion, and the plan of which part comes when."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.accelerator import Companion
from hwnas.core.artifact import LIBRARY
from hwnas.errors import BuildError, ConfigError, HwnasError
from hwnas.graph.fusion import kernel_of
from hwnas.toolchains.partition.extract import Cutter
from hwnas.toolchains.partition.stages import Partition, Rest, Segment

if TYPE_CHECKING:
    from onnx import ModelProto

PLAN = "stages.json"
"""The file that says what runs in which order: for each part where, its files, and the tensors it takes and gives."""
KEY = "accelerator.cpu.target"
_FLAGS = ("mtriple", "mcpu", "mattr")


def build_rest(divided: Partition, companion: Companion, into: Path) -> tuple[Path, ...]:
    """Build each stretch of the network between two segments for the companion's `target`; returns all files.

    Where an operating system runs, a part is a shared library of the Relax virtual machine; for a bare microcontroller
    it is a folder of C for that core. `stages.json` lists the parts in execution order, segments among them. Raises
    ConfigError for a target that TVM does not know, BuildError with the compiler's words or for a missing linker.
    """
    options = target_options(companion.target)
    into.mkdir(parents=True, exist_ok=True)
    cutter = Cutter(divided.network, divided.graph)
    written: list[Path] = []
    plan: list[dict[str, Any]] = []
    for is_segment, run in groupby(divided.stages, lambda stage: isinstance(stage, Segment)):
        stages = list(run)
        if is_segment:
            plan += [_planned(s.inputs, s.outputs, "accelerator", s.network.graph.name) for s in stages]
            continue
        name = f"cpu{sum(part['where'] == 'cpu' for part in plan)}"
        kernels = [stage.kernel for stage in stages if isinstance(stage, Rest)]
        whole = kernel_of(divided.graph, sorted(i for kernel in kernels for i in kernel.operators))
        if not whole.outputs:  # nobody reads what these make
            continue
        piece = cutter.piece(name, whole.operators, whole.inputs, whole.outputs)
        written += _built(piece, options, into / name)
        part = _planned(whole.inputs, whole.outputs, "cpu", name)
        plan.append({**part, "kernels": [kernel.label for kernel in kernels]})
    (into / PLAN).write_text(json.dumps({"target": companion.target, "stages": plan}, indent=1) + "\n")
    return (*written, into / PLAN)


def target_options(target: str) -> dict[str, Any]:
    """The options of a target such as `llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a53 -mattr=+neon`.

    `native` is this computer. Raises ConfigError for any other form.
    """
    words = target.split()
    if words == ["native"]:
        return {"target": "native"}
    options: dict[str, Any] = {"target": "cross"}
    for word in words[1:]:
        key, _, value = word.removeprefix("-").partition("=")
        if not word.startswith("-") or key not in _FLAGS or not value:
            raise ConfigError("is no flag of a CPU target", key=KEY, given=word, allowed=[f"-{f}=..." for f in _FLAGS])
        options[key] = value.split(",") if key == "mattr" else value
    if words[:1] != ["llvm"] or "mtriple" not in options:
        raise ConfigError(
            "is native, or llvm -mtriple=TRIPLE with -mcpu and -mattr where they matter", key=KEY, given=target
        )
    return options


def _planned(inputs: Sequence[str], outputs: Sequence[str], where: str, part: str) -> dict[str, Any]:
    return {"where": where, "part": part, "inputs": list(inputs), "outputs": list(outputs)}


def _built(piece: ModelProto, options: Mapping[str, Any], into: Path) -> list[Path]:
    """Build one network for the target into a folder; returns its files."""
    from hwnas.toolchains.tvm import check_versions

    check_versions()
    if "-none-" in str(options.get("mtriple", "")):
        from hwnas.toolchains.cgen.folder import write_folder
        from hwnas.toolchains.cgen.kernels import core_of

        return write_folder(piece, into, core_of(str(options.get("mcpu", ""))))
    from hwnas.toolchains.schedules.isa import isa_of
    from hwnas.toolchains.schedules.objects import link_library
    from hwnas.toolchains.schedules.pipeline import fused
    from hwnas.toolchains.tvm import cpu_target, linker, write_inputs

    target, compiler = cpu_target(dict(options)), linker(dict(options))
    into.mkdir(parents=True, exist_ok=True)
    isa = isa_of(target)
    try:
        with warnings.catch_warnings():  # the importer tells of every dot that it takes out of a name
            warnings.filterwarnings("ignore", "Renaming name", UserWarning)
            network = fused(piece, isa, target)
        link_library(network.module, target, into / LIBRARY, compiler, isa=isa)
    except HwnasError:
        raise
    except Exception as error:  # TVM raises many classes; what they say is what the user needs
        raise BuildError("tvm", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error
    write_inputs(piece, into, network.input_axes, network.output_axes)
    return sorted(file for file in into.iterdir() if file.is_file())
