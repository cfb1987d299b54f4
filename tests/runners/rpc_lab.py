"""A lab on this computer: a tracker, an agent that runs natively, and proxies in front of both that can spoil things."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwnas.core.device import Device
from hwnas.processes import Child
from hwnas.runners.rootfs import AGENT_PARENT
from hwnas.runners.tvm_rpc import RpcRunner
from hwnas.runners.tvm_rpc.board import RpcBoard
from tests.runners.tcp_proxy import TcpProxy

KEY = "loop"


def loopback_device(**protocol: Any) -> Device:
    """A device behind RPC that is this very computer."""
    return Device.model_validate(
        {
            "schema": 1,
            "name": "loopback",
            "summary": "this computer behind TVM's RPC",
            "fidelity": "hardware",
            "compute": {"cores": 1, "isa": "native", "macs_per_s": "1 G/s", "overhead": "1 us", "source": "chosen"},
            "memories": [{"use": "ram", "source": "as there is"}],
            "dtypes": ["fp32"],
            "toolchains": ["tvm"],
            "options": {"tvm": {"threads": 1, "target": "native"}},
            "runner": "tvm-rpc",
            "protocol": {"warmup": 1, "reading": "0.1 ms", "timeout": "10 s", **protocol},
            "rpc": {"key": KEY},
        }
    )


class RpcLab:
    """Starts it all; `open` gives a board by the runner, as a user's lab file would."""

    def __init__(self, folder: Path, lease: str = "600 s") -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        self.tracker_proxy, self.proxy = TcpProxy(), TcpProxy(free_port())
        self._tracker = Child("hwnas.runners.tvm_rpc.tracker", {"TVM_USE_RUNTIME_LIB": "1"})
        self.agent: subprocess.Popen[bytes] | None = None
        self.lab = folder / "lab.yaml"
        self.write(lease=lease)
        self.start_tracker()
        self.start_agent()

    def write(self, **more: Any) -> None:
        """The lab file, with other settings than usual."""
        entry = {"device": "loopback", "port": self.tracker_proxy.port, **more}
        self.lab.write_text(yaml.safe_dump({"schema": 1, "rpc": [entry]}))

    def open(self, monkeypatch: pytest.MonkeyPatch, device: Device | None = None) -> RpcBoard:
        monkeypatch.setenv("HWNAS_LAB", str(self.lab))
        return RpcRunner().open(device or loopback_device())

    def start_tracker(self) -> None:
        self.tracker_proxy.to = int(self._tracker.request({}, 60)["port"])

    def kill_tracker(self) -> None:
        self._tracker.close()

    def start_agent(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-s", "-m", "agent", "--tracker", f"127.0.0.1:{self.tracker_proxy.port}",
                 "--key", KEY, "--port", str(self.proxy.to), "--announce", str(self.proxy.port),
                 "--work", str(self.work)],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(AGENT_PARENT), "OMP_NUM_THREADS": "1"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill_agent(self, with_children: bool = False) -> None:
        """Kill the server, alone or with its sessions."""
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if with_children else os.kill)(self.agent.pid, signal.SIGKILL)
            self.agent.wait()

    def close(self) -> None:
        self.kill_agent(with_children=True)
        self._tracker.close()
        self.proxy.close()
        self.tracker_proxy.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(true: Any, what: str, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
