"""NVIDIA's compiler: where it is, which chips it knows, and CUDA source to device code. No GPU is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hwnas.errors import BuildError

TIMEOUT_S = 240.0
PACKAGE = "nvidia-cuda-nvcc"
_RELEASE = re.compile(r"release ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Nvcc:
    """An installed nvcc: its path, its release (such as 13.0), and the chips that it makes code for (87 is sm_87)."""

    path: Path
    release: str
    chips: frozenset[int]

    def cubin(self, source: Path, into: Path, chip: int) -> str:
        """Compile a CUDA file to device code; returns what the assembler logged of each kernel. Raises BuildError."""
        if chip not in self.chips:
            older = f"; install an older CUDA, such as 12.9, for sm_{chip}" if chip < min(self.chips) else ""
            raise BuildError(
                "nvcc", f"nvcc {self.release} makes no code for the chip sm_{chip} "
                f"(it knows {', '.join(f'sm_{c}' for c in sorted(self.chips))}){older}"
            )  # fmt: skip
        done = _run([str(self.path), "-w", "-cubin", f"-arch=sm_{chip}", "-Xptxas", "-v", "-o", str(into), str(source)])
        if done.returncode != 0 or not into.is_file():
            raise BuildError("nvcc", f"nvcc {self.release}: {' '.join(done.stderr.split())[-800:]}")
        return done.stderr


def find_nvcc(environment: Mapping[str, str] = os.environ, packages: Iterable[Path] | None = None) -> Nvcc:
    """The nvcc on PATH, else in CUDA_HOME, else that of the Python package nvidia-cuda-nvcc. Raises BuildError."""
    candidates = [shutil.which("nvcc", path=environment.get("PATH", ""))]
    if home := environment.get("CUDA_HOME"):
        candidates.append(shutil.which("nvcc", path=str(Path(home) / "bin")))
    for folder in _packages() if packages is None else packages:
        candidates += [str(found) for found in sorted(folder.glob("cu*/bin/nvcc"), reverse=True)]
    for path in filter(None, candidates):
        release = _RELEASE.search(_run([path, "--version"]).stdout)
        chips = re.findall(r"sm_(\d+)\b", _run([path, "--list-gpu-code"]).stdout)
        if release is not None and chips:
            return Nvcc(Path(path), release[1], frozenset(int(c) for c in chips))
    raise BuildError(
        "nvcc", f"nvcc is missing, which compiles CUDA for the device: pip install {PACKAGE} (no GPU is needed), "
        "or install the CUDA toolkit and put its nvcc on PATH or name its folder in CUDA_HOME"
    )  # fmt: skip


def _packages() -> list[Path]:
    """Where NVIDIA's Python packages are installed."""
    spec = find_spec("nvidia")
    return [Path(p) for p in spec.submodule_search_locations or ()] if spec is not None else []


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except OSError as error:
        raise BuildError("nvcc", f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError("nvcc", f"{command[0]} took longer than {TIMEOUT_S:g} s") from error
