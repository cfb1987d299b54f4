"""Builds in child processes, several at a time: a compiler that crashes or hangs costs one workload, not the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

from hwnas.core.artifact import read_artifact
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, DataError
from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout, serve
from hwnas.toolchains.cache import ArtifactCache

if TYPE_CHECKING:
    from onnx import ModelProto

SOURCE = "source.onnx"


class BuildPool:
    """`workers` child processes that build for one device with one toolchain."""

    def __init__(self, toolchain: str, device: Device, workers: int = 2, timeout_s: float = 300.0) -> None:
        self._toolchain, self._device, self._timeout_s = (
            toolchain,
            device.model_dump(mode="json", by_alias=True),
            timeout_s,
        )
        self._children = [Child("hwnas.toolchains.builder") for _ in range(workers)]
        self._free: Queue[Child] = Queue()
        for child in self._children:
            self._free.put(child)

    def build(self, networks: Sequence[tuple[ModelProto, Path]]) -> Iterator[Artifact | BuildError]:
        """Build each network into its folder, in order; what failed is yielded as a BuildError."""
        with ThreadPoolExecutor(len(self._children)) as threads:
            yield from threads.map(self._one, networks)

    def close(self) -> None:
        for child in self._children:
            child.close()

    def __enter__(self) -> BuildPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, job: tuple[ModelProto, Path]) -> Artifact | BuildError:
        network, into = job
        into.mkdir(parents=True, exist_ok=True)
        (into / SOURCE).write_bytes(network.SerializeToString())
        child = self._free.get()  # several boards may wait for builds at once
        try:
            child.request(
                {"toolchain": self._toolchain, "device": self._device, "into": str(into)}, timeout_s=self._timeout_s
            )
            return read_artifact(into)
        except ChildTimeout as error:
            return BuildError(self._toolchain, f"{error} (build deadline)")
        except (ChildCrashed, ChildError, DataError) as error:  # DataError: it said that it built, and did not
            return BuildError(self._toolchain, str(error).removeprefix(f"build failed in {self._toolchain}: "))
        finally:
            self._free.put(child)


def build_one(toolchain: str, network: ModelProto, device: Device, into: Path) -> Artifact:
    """Build a single network in a child process. Raises BuildError."""
    with BuildPool(toolchain, device, workers=1) as pool:
        result = next(pool.build([(network, into)]))
    if isinstance(result, BuildError):
        raise result
    return result


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import onnx

    from hwnas.registry import toolchains

    into = Path(request["into"])
    source = into / SOURCE
    serialised = source.read_bytes()
    source.unlink()
    device = Device.model_validate(request["device"])
    toolchain = toolchains.load(request["toolchain"])()
    if not getattr(toolchain, "cached", False):
        toolchain.build(onnx.load_from_string(serialised), device, into)
        return {"built": True}
    kept = ArtifactCache()
    key = kept.key(serialised, toolchain, device)
    if not kept.restore(key, into):
        toolchain.build(onnx.load_from_string(serialised), device, into)
        kept.keep(key, into)
    return {"built": True}


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it, 2 s and 300 MB for nothing
    serve(_answer)
