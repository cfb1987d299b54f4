"""Setting a real Linux board up over ssh: a Python of its own, the pinned TVM, the agent, and a service that runs it.

Nothing listens on the network: the agent binds to the board's 127.0.0.1, and reaches this computer's tracker, and is
reached from it, through an ssh tunnel. TVM's RPC lets whoever can connect run anything, so the tunnel is the lock.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwnas.core.device import Device
from hwnas.core.lab import LOOPBACK
from hwnas.errors import BuildError, ConfigError, DeviceTimeout, DeviceUnavailable
from hwnas.runners.rootfs import AGENT_PARENT, board_requirements

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
ADDRESS = re.compile(r"^(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9_][A-Za-z0-9._:-]*$")
HOME = "$HOME/.local/share/hwnas"
SERVICE = "hwnas-agent"
UNIT = """\
[Unit]
Description=hwnas agent: lends this board to a TVM RPC tracker, on 127.0.0.1 only

[Service]
Environment=PYTHONPATH=%h/.local/share/hwnas TVM_USE_RUNTIME_LIB=1
ExecStartPre=/bin/rm -rf %h/.local/share/hwnas/work
ExecStartPre=/bin/mkdir -p %h/.local/share/hwnas/work
ExecStart=%h/.local/share/hwnas/venv/bin/python -s -m agent --bind 127.0.0.1 --port {port} \
--tracker 127.0.0.1:{tracker_port} --key {key} --work %h/.local/share/hwnas/work
Restart=always
RestartSec=2

[Install]
WantedBy=default.target
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Action:
    """One command on the board, with what it reads from its standard input."""

    name: str
    command: str
    given: bytes = b""
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class BoardSetup:
    """What makes a board at an ssh address one that a tracker can lend. Raises ConfigError for an odd address."""

    device: Device
    ssh: str
    port: int = 9091
    tracker_port: int = 9190

    def __post_init__(self) -> None:
        if not ADDRESS.match(self.ssh):
            raise ConfigError("is not an ssh address; write it like pi@raspberrypi", key="--ssh", given=self.ssh)
        if self.device.rpc is None or self.device.rpc.emulated is not None:
            raise ConfigError(f"{self.device.name} is not a board that is reached over ssh", key="--ssh")

    @property
    def key(self) -> str:
        assert self.device.rpc is not None
        return self.device.rpc.key

    def actions(self) -> tuple[Action, ...]:
        """The commands in order; each can be run again."""
        packages = " ".join(f"'{requirement}'" for requirement in board_requirements())
        unit = UNIT.format(port=self.port, tracker_port=self.tracker_port, key=self.key)
        units = "$HOME/.config/systemd/user"
        return (
            Action(
                "look at the board",
                "uname -m && python3 -c 'import sys; assert sys.version_info >= (3, 10), sys.version; import venv'",
            ),
            Action(
                "install Python packages",
                f"mkdir -p {HOME} && python3 -m venv {HOME}/venv && "
                f"{HOME}/venv/bin/pip install --quiet --disable-pip-version-check --only-binary=:all: {packages}",
                timeout_s=1800.0,
            ),
            Action("copy the agent", f"rm -rf {HOME}/agent && tar -xf - -C {HOME}", _packed_agent()),
            Action(
                "check the agent",
                f"PYTHONPATH={HOME} TVM_USE_RUNTIME_LIB=1 {HOME}/venv/bin/python -s -m agent --check",
                timeout_s=300.0,
            ),
            Action("write the service", f"mkdir -p {units} && cat > {units}/{SERVICE}.service", unit.encode()),
            Action(
                "start the service, now and at every boot",
                f"systemctl --user daemon-reload && systemctl --user enable {SERVICE} && "
                f"systemctl --user restart {SERVICE} && loginctl enable-linger",
            ),
        )

    def shown(self) -> list[str]:
        """The commands as a person would type them, with the service's text."""
        lines: list[str] = []
        for action in self.actions():
            lines += [f"# {action.name}", f"{' '.join(SSH)} {self.ssh} {shlex.quote(action.command)}"]
            if action.given.startswith(b"[Unit]"):
                lines += [f"  {line}" for line in action.given.decode().splitlines()]
            elif action.given:
                lines.append(f"  (given {len(action.given)} bytes of tar: {AGENT_PARENT.name}/agent)")
        return lines

    def afterwards(self) -> list[str]:
        """What the user does on this computer, every time: tracker and tunnel; and once: the lab file."""
        tracker, port = self.tracker_port, self.port
        return [
            "on this computer, while you measure:",
            f"  python -m tvm.exec.rpc_tracker --host {LOOPBACK} --port {tracker} --port-end {tracker + 1}",
            f"  ssh -N -o ExitOnForwardFailure=yes -R {LOOPBACK}:{tracker}:{LOOPBACK}:{tracker} "
            f"-L {LOOPBACK}:{port}:{LOOPBACK}:{port} {self.ssh}",
            "and once, in the lab file:",
            f"  rpc: [{{device: {self.device.name}, port: {tracker}, ssh: {self.ssh}}}]",
        ]

    def perform(self, say: Say) -> None:
        """Run the commands. Raises DeviceUnavailable, DeviceTimeout, or BuildError with the board's words."""
        for action in self.actions():
            say(action.name)
            try:
                done = subprocess.run(
                    (*SSH, self.ssh, action.command), input=action.given, capture_output=True, timeout=action.timeout_s
                )
            except subprocess.TimeoutExpired:
                raise DeviceTimeout(f"{self.ssh}: {action.name}: no end within {action.timeout_s:g} s") from None
            except OSError as error:
                raise DeviceUnavailable(
                    f"ssh cannot be started: {error.strerror}; apt-get install openssh-client"
                ) from error
            words = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            if done.returncode == 255:  # ssh's own
                raise DeviceUnavailable(
                    f"{self.ssh} cannot be reached without a password: {words}. Try `ssh-copy-id {self.ssh}`"
                )
            if done.returncode:
                raise BuildError(action.name, f"on {self.ssh}, status {done.returncode}: {words}")


def _packed_agent() -> bytes:
    """The agent's package as a tar, the same bytes for the same source."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted((AGENT_PARENT / "agent").glob("*.py")):
            entry = tarfile.TarInfo(f"agent/{path.name}")
            content = Path(path).read_bytes()
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
