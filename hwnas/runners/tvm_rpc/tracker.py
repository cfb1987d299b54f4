"""A TVM RPC tracker of our own on loopback, as a child process that dies with its parent."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

from hwnas.processes import serve


def main() -> None:
    """Track on a free port of 127.0.0.1; any request is answered with the port."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it, for nothing
    from tvm.rpc import base, tracker

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    threading.Thread(target=tracker._tracker_server, args=(listener, base.random_key("tracker")), daemon=True).start()

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        return {"port": port}

    serve(answer)


if __name__ == "__main__":
    main()
