"""The runner `tvm-rpc`: which boards there are, and how to get to each."""

from __future__ import annotations

from hwnas import config
from hwnas.core.device import Device
from hwnas.core.lab import RpcBoards
from hwnas.errors import DeviceUnavailable
from hwnas.runners.tvm_rpc.board import RpcBoard, Way
from hwnas.runners.tvm_rpc.remote_health import RemoteHealth

WAIT_S = 20.0
"""How long a free board is waited for."""
EMULATED_WAIT_S = 60.0
"""An emulated board starts in two seconds on an idle computer; on a busy one it may take much longer."""
NO_LEASE_S = 1e6


class RpcRunner:
    """Opens Linux boards that a TVM tracker lends, and emulated ones that it starts itself."""

    name = "tvm-rpc"
    remote = True

    def places(self, device: Device) -> tuple[str, ...]:
        """The boards of this kind, from the lab file; emulated ones are made. Raises DeviceUnavailable."""
        return tuple(self._places(device))

    def open(self, device: Device, place: str | None = None) -> RpcBoard:
        """Open a board by name, or the first. Raises DeviceUnavailable."""
        places = self._places(device)
        name = place or next(iter(places))
        if name not in places:
            raise DeviceUnavailable(f"there is no board {name!r} of {device.name}, only {', '.join(places)}")
        boards = places[name]
        return RpcBoard(device, _emulated(device, name) if boards is None else _lent(device, boards, name))

    def _places(self, device: Device) -> dict[str, RpcBoards | None]:
        assert device.rpc is not None  # the device's own check
        lab = config.load_lab()
        if device.rpc.emulated is not None:
            return {f"emulated-{i + 1}": None for i in range(lab.emulated.get(device.name, 1))}
        found: dict[str, RpcBoards | None] = {}
        for boards in lab.rpc_of(device.name):
            place = boards.place(device.rpc.key)
            for i in range(boards.boards):
                found[place + (f"/{i + 1}" if boards.boards > 1 else "")] = boards
        if not found:
            raise DeviceUnavailable(
                f"no {device.name} is in the lab: name its tracker in {config.lab_file()}, such as\n"
                f"  rpc: [{{device: {device.name}, port: 9190, ssh: pi@raspberrypi}}]\n"
                f"and set the board up with: hwnas devices setup {device.name} --ssh USER@HOST"
            )
        return found


def _lent(device: Device, boards: RpcBoards, name: str) -> Way:
    assert device.rpc is not None
    return Way(
        name=name,
        key=boards.key or device.rpc.key,
        address=(boards.host, boards.port),
        wait_s=WAIT_S,
        lease_s=boards.lease,
        health=None if boards.ssh is None else RemoteHealth(boards.ssh),
    )


def _emulated(device: Device, name: str) -> Way:
    from hwnas.runners.rootfs import installed
    from hwnas.runners.tvm_rpc.hosted import Hosted

    assert device.rpc is not None
    assert device.rpc.emulated is not None
    root = installed(device.name)
    hosted = Hosted(device.rpc.key, root.command(device.rpc.emulated), root.environment)
    return Way(
        name=name,
        key=device.rpc.key,
        hosted=hosted,
        wait_s=EMULATED_WAIT_S,
        lease_s=NO_LEASE_S,
        counts=True,
        machine=f"{device.rpc.emulated} under qemu-user",
        counter=root.counter,
    )
