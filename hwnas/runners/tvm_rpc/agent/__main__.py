"""`python -m agent`: lend this board until the program is ended."""

from __future__ import annotations

import argparse
import os
import platform
import sys

from .messages import pack_arrays, revision, seal, unpack_arrays, unseal
from .server import Server
from .session import machine_name


def main() -> None:
    parser = argparse.ArgumentParser(description="Lend this board to hwnas through a TVM RPC tracker.")
    parser.add_argument("--tracker", default="127.0.0.1:9190", help="HOST:PORT of the tracker")
    parser.add_argument("--key", default="board", help="what to register as")
    parser.add_argument("--bind", default="127.0.0.1", help="the address to listen on and to be called at")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0: any")
    parser.add_argument("--announce", type=int, help="the port to be called at, where a tunnel starts at another one")
    parser.add_argument("--work", help="a folder for uploaded libraries")
    parser.add_argument("--counts", action="store_true", help="count instructions: under qemu with the plugin only")
    parser.add_argument("--check", action="store_true", help="import TVM's runtime, say so, and end")
    parser.add_argument("--life", type=int, help="a pipe; when its other end closes, the server ends")
    settings = parser.parse_args()
    import_runtime()
    if settings.check:
        print(f"agent {revision()} on {platform.machine()}, {machine_name()}")
        return
    Server(settings).serve()


def import_runtime() -> None:
    """Import what sessions need, and use it once: they are forks, and an emulator has translated it for all of them."""
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it where it is installed
    import numpy as np
    import tvm
    import tvm.runtime.vm
    from tvm.rpc import _ffi_api, base  # noqa: F401
    from tvm.runtime.module import BenchmarkResult

    revision()
    BenchmarkResult([1.0])  # its statistics are imported late
    drawn = np.random.default_rng(0).standard_normal((1, 4)).astype("float32")
    kinds, data = pack_arrays([tvm.runtime.tensor(drawn).numpy()])
    header, payload = unseal(seal({"arrays": kinds}, data))
    unpack_arrays(header["arrays"], payload)


if __name__ == "__main__":
    main()
