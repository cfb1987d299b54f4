"""Bad days of a board behind RPC: every fault ends in a correct result or in a named failure, and the board goes on.

One bit of a result changed, an upload cut in two, a server killed with its children, a kernel that hangs: each of the
faults below happens at 20 seeded places of a visit (send a library, compute with it, time it). Nothing of it may be
a wrong number, and nothing may last longer than its deadline.
"""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.core.artifact import LIBRARY
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceCrashed, DeviceError, DeviceTimeout, DeviceUnavailable
from hwnas.graph.session import open_session
from hwnas.runners.tvm_rpc import runner
from hwnas.runners.tvm_rpc.board import RpcBoard
from hwnas.testing import small_network
from hwnas.toolchains.builder import BuildPool
from tests.runners.rpc_lab import KEY, RpcLab, loopback_device, wait_until
from tests.runners.tcp_proxy import Fault

SEEDS = 20
TIMEOUT_S = 0.6
WAIT_S = 6.0
LONGEST_S = TIMEOUT_S + WAIT_S + 6.0
HANG = 'for (;;) __asm__ volatile("");'
CRASH = "*(volatile int *)0 = 1;"


@dataclass
class Scene:
    """What a fault may play with."""

    lab: RpcLab
    board: RpcBoard
    artifacts: list[Artifact]
    expected: list[np.ndarray]
    folder: Path
    counted: Counter[str] = field(default_factory=Counter)

    def compute(self, which: int, timeout_s: float = 10 * TIMEOUT_S) -> None:
        """Compute and time; whatever comes back must be right. Raises DeviceError."""
        [output] = self.board.outputs(self.artifacts[which], [INPUT], timeout_s)
        np.testing.assert_allclose(output, self.expected[which], rtol=0, atol=1e-5)
        samples = self.board.run(self.artifacts[which], 3, timeout_s)
        assert len(samples.latency_s) == 3
        assert all(1e-7 < s < 0.5 for s in samples.latency_s)

    def visit(self, which: int) -> str:
        """The outcome of a visit by name; it never lasts longer than the deadlines."""
        start = time.monotonic()
        try:
            self.compute(which, TIMEOUT_S)
            outcome = "correct"
        except DeviceError as error:
            assert len(str(error)) > 10
            outcome = type(error).__name__
        assert time.monotonic() - start < LONGEST_S
        self.counted[outcome] += 1
        return outcome


INPUT = np.random.default_rng(1).standard_normal((1, 1, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Artifact], list[np.ndarray]]:
    """Two artifacts, and what onnxruntime computes with their networks."""
    folder = tmp_path_factory.mktemp("built")
    networks = [small_network(), small_network(12)]
    with BuildPool("tvm", loopback_device(), workers=1) as pool:
        made = list(pool.build([(n, folder / str(i)) for i, n in enumerate(networks)]))
    expected = []
    for network in networks:
        session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
        expected.append(session.run(None, {session.get_inputs()[0].name: INPUT})[0])
    return [a for a in made if isinstance(a, Artifact)], expected


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcLab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "WAIT_S", WAIT_S)
        patch.setattr("hwnas.runners.tvm_rpc.board.GRACE_S", 0.3)
        lab = RpcLab(tmp_path_factory.mktemp("lab"))
        try:
            yield lab
        finally:
            lab.close()


@pytest.fixture(scope="module")
def board(lab: RpcLab) -> Iterator[RpcBoard]:
    wait_until(lambda: KEY in keys(lab), "the agent does not register")
    with pytest.MonkeyPatch.context() as patch:
        board = lab.open(patch, loopback_device(failures_in_a_row=1000))
    yield board
    board.close()


@pytest.fixture
def scene(lab: RpcLab, board: RpcBoard, built: tuple[list[Artifact], list[np.ndarray]], tmp_path: Path) -> Scene:
    scene = Scene(lab, board, *built, tmp_path)
    scene.compute(0)
    return scene


def keys(lab: RpcLab) -> dict[str, int]:
    from hwnas.runners.tvm_rpc.client import Tracker

    tracker = Tracker("127.0.0.1", lab.tracker_proxy.port)
    try:
        return tracker.keys()
    finally:
        tracker.close()


LINK_FAULTS = ("flip", "garbage", "drop", "duplicate", "delay", "stall", "cut", "reset")


@pytest.mark.parametrize("kind", LINK_FAULTS)
def test_a_bad_link(scene: Scene, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    fired = 0
    for seed in range(SEEDS):
        rng = random.Random(f"{kind} {seed}")
        outward = rng.random() < 0.5
        size = (Path(scene.artifacts[seed % 2].path) / LIBRARY).stat().st_size if outward else 2000
        fault = Fault(kind, outward, int(size ** rng.random()), rng)
        scene.lab.proxy.arm(fault)
        scene.visit(seed % 2)
        fired += fault.fired.is_set()
        scene.lab.proxy.heal()
        scene.compute(1 - seed % 2)  # the link is good again, and so is the board
    report(capsys, kind, scene)
    assert fired >= SEEDS / 2


def report(capsys: pytest.CaptureFixture[str], name: str, scene: Scene) -> None:
    with capsys.disabled():
        print(f"\n{name}: {dict(scene.counted)}", end="", flush=True)


def killed_server(scene: Scene, rng: random.Random, with_children: bool) -> str:
    def kill() -> None:
        time.sleep(rng.uniform(0, 0.05))
        scene.lab.kill_agent(with_children)
        scene.lab.start_agent()  # as systemd does

    thread = threading.Thread(target=kill)
    thread.start()
    outcome = scene.visit(rng.randrange(2))
    thread.join()
    return outcome


def server_killed(scene: Scene, rng: random.Random) -> None:
    killed_server(scene, rng, with_children=False)


def server_killed_with_its_children(scene: Scene, rng: random.Random) -> None:
    killed_server(scene, rng, with_children=True)


def tracker_killed(scene: Scene, rng: random.Random) -> None:
    scene.lab.kill_tracker()
    if rng.random() < 0.5:
        scene.lab.proxy.cut()  # the session needs the tracker only when it is lost as well
    restart = threading.Timer(rng.uniform(0, 0.5), scene.lab.start_tracker)
    restart.start()
    scene.visit(rng.randrange(2))
    restart.join()


def session_killed(scene: Scene, rng: random.Random) -> None:
    [pid] = children_of(scene.lab.agent.pid)
    timer = threading.Timer(rng.uniform(0, 0.03), lambda: subprocess.run(["kill", "-9", str(pid)]))
    timer.start()
    outcome = scene.visit(rng.randrange(2))
    timer.join()
    if outcome == "correct":  # it came too late; the next visit finds a dead session
        scene.visit(0)
        scene.counted[outcome] -= 1


def kernel_hangs(scene: Scene, rng: random.Random) -> None:
    bad = broken(scene, HANG, f"hang-{rng.random()}")
    start = time.monotonic()
    with pytest.raises(DeviceTimeout, match="no answer within"):
        scene.board.run(bad, 3, 0.3)
    assert time.monotonic() - start < 3
    scene.counted["DeviceTimeout"] += 1


def kernel_crashes(scene: Scene, rng: random.Random) -> None:
    with pytest.raises(DeviceCrashed, match="was ended by SIGSEGV while the network ran"):
        scene.board.run(broken(scene, CRASH, f"crash-{rng.random()}"), 3, 10 * TIMEOUT_S)
    scene.counted["DeviceCrashed"] += 1


def stranger_at_the_port(scene: Scene, rng: random.Random) -> None:
    """Somebody talks nonsense to the server while it waits for us, or connects and stays silent."""
    scene.board._disconnect()
    with socket.create_connection(("127.0.0.1", scene.lab.proxy.to), 5) as stranger:
        stranger.sendall(rng.randbytes(rng.choice((0, 3, 8, 200))))
        time.sleep(rng.uniform(0, 0.1))
        if rng.random() < 0.7:
            with contextlib.suppress(OSError):  # it was shown out already
                stranger.shutdown(socket.SHUT_WR)
        else:
            threading.Timer(0.3, stranger.close).start()
            time.sleep(0.3)
    scene.visit(rng.randrange(2))


def stranger_at_the_tracker(scene: Scene, rng: random.Random) -> None:
    scene.board._disconnect()
    with socket.create_connection(("127.0.0.1", scene.lab.tracker_proxy.to), 5) as stranger:
        stranger.sendall(rng.randbytes(rng.randrange(1, 200)))
        scene.visit(rng.randrange(2))


def registered_again(scene: Scene, rng: random.Random) -> None:
    """The board reboots between two visits."""
    scene.lab.kill_agent(with_children=rng.random() < 0.5)
    threading.Timer(rng.uniform(0, 0.3), scene.lab.start_agent).start()
    assert scene.visit(rng.randrange(2)) != "DeviceUnavailable"
    wait_until(lambda: scene.lab.agent.poll() is None, "the agent starts")


def other_architecture(scene: Scene, rng: random.Random) -> None:
    def change(content: bytearray) -> None:
        content[18:20] = rng.choice((40, 183, 243)).to_bytes(2, "little")

    refused(scene, rng, change, "was built for .* but the board is x86_64")


def library_cut(scene: Scene, rng: random.Random) -> None:
    def change(content: bytearray) -> None:
        del content[rng.randrange(len(content)) :]

    refused(scene, rng, change, "it was cut")


def full_disk(scene: Scene, rng: random.Random) -> None:
    """Files of the session cannot grow beyond what the disk holds."""
    scene.compute(0)
    [pid] = children_of(scene.lab.agent.pid)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (rng.randrange(1, 20_000), resource.RLIM_INFINITY))
    with pytest.raises(DeviceError, match="File too large"):
        scene.board.run(scene.artifacts[1], 3, 10 * TIMEOUT_S)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    scene.counted["DeviceError"] += 1


def folder_gone(scene: Scene, rng: random.Random) -> None:
    """Somebody tidied the board's folder up."""
    import shutil

    scene.compute(0)
    for session in scene.lab.work.iterdir():
        shutil.rmtree(session)
    with pytest.raises(DeviceError, match="No such file"):
        scene.board.run(scene.artifacts[1], 3, 10 * TIMEOUT_S)
    scene.counted["DeviceError"] += 1
    scene.board._disconnect()


def second_client(scene: Scene, rng: random.Random) -> None:
    """The board is lent: another client is told so, and ours goes on."""
    scene.compute(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "WAIT_S", 0.1)
        with pytest.raises(DeviceUnavailable, match="is in use; none became free within"):
            scene.lab.open(patch)
    scene.counted["DeviceUnavailable"] += 1


def unregistered_key(scene: Scene, rng: random.Random) -> None:
    device = loopback_device()
    assert device.rpc is not None
    wrong = device.model_copy(update={"rpc": device.rpc.model_copy(update={"key": f"nobody-{rng.randrange(99)}"})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwnas.runners.tvm_rpc.board.APPEAR_S", 0.1)
        with pytest.raises(DeviceUnavailable, match=rf"no board is registered as 'nobody-\d+' .*registered: {KEY}\)"):
            scene.lab.open(patch, wrong)
    scene.counted["DeviceUnavailable"] += 1


FAULTS: tuple[Callable[[Scene, random.Random], None], ...] = (
    server_killed, server_killed_with_its_children, tracker_killed, session_killed, kernel_hangs, kernel_crashes,
    stranger_at_the_port, stranger_at_the_tracker, registered_again, other_architecture, library_cut, full_disk,
    folder_gone, second_client, unregistered_key,
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_bad_day(
    scene: Scene, fault: Callable[[Scene, random.Random], None], capsys: pytest.CaptureFixture[str]
) -> None:
    scene.compute(0)
    for seed in range(SEEDS):
        fault(scene, random.Random(f"{fault.__name__} {seed}"))
        scene.compute(seed % 2)
    report(capsys, fault.__name__, scene)
    assert sum(scene.counted.values()) == SEEDS


def refused(scene: Scene, rng: random.Random, change: Callable[[bytearray], None], message: str) -> None:
    artifact = copied(scene, f"refused-{rng.random()}")
    library = Path(artifact.path) / LIBRARY
    content = bytearray(library.read_bytes())
    change(content)
    library.write_bytes(content)
    with pytest.raises(DeviceError, match=message):
        scene.board.run(artifact, 3, 10 * TIMEOUT_S)
    scene.counted["DeviceError"] += 1


def copied(scene: Scene, name: str) -> Artifact:
    import shutil

    shutil.copytree(scene.artifacts[0].path, scene.folder / name)
    return replace(scene.artifacts[0], path=str(scene.folder / name))


def broken(scene: Scene, code: str, name: str) -> Artifact:
    """An artifact whose library runs this C code as soon as it is loaded."""
    artifact = copied(scene, name)
    ready = scene.folder / f"{len(code)}.so"
    if not ready.exists():
        source = scene.folder / "bad.c"
        source.write_text(f"__attribute__((constructor)) void bad(void) {{ {code} }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", ready, source], check=True)
    (Path(artifact.path) / LIBRARY).write_bytes(ready.read_bytes())
    return replace(artifact, flash_bytes=ready.stat().st_size)


def children_of(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
