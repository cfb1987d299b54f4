"""Boards behind TVM's RPC: a native one on loopback, and the emulated Cortex-A72 that counts instructions."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.config import load_device
from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Runner
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceCrashed, DeviceError, DeviceQuarantined, DeviceTimeout, DeviceUnavailable, NotMeasurable
from hwnas.graph.fusion import split
from hwnas.graph.session import open_session
from hwnas.graph.workloads import materialize
from hwnas.registry import spaces
from hwnas.runners import rootfs
from hwnas.runners.arrays import read_interface
from hwnas.runners.tvm_rpc import RpcRunner
from hwnas.runners.tvm_rpc.agent.messages import Corrupt, pack_arrays, seal, unpack_arrays, unseal
from hwnas.runners.tvm_rpc.board import RpcBoard, Way
from hwnas.runners.tvm_rpc.hosted import Hosted
from hwnas.runners.tvm_rpc.remote_health import RemoteHealth
from hwnas.testing import RunnerContract, small_network
from hwnas.toolchains.builder import BuildPool, build_one
from tests.runners.rpc_lab import KEY, RpcLab, free_port, loopback_device, wait_until
from tests.runners.tcp_proxy import Fault, TcpProxy

EMULATED = load_device("rpi4b-qemu")
HANG = 'for (;;) __asm__ volatile("");'
CRASH = "*(volatile int *)0 = 1;"
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def root() -> rootfs.Root:
    """The root file system of emulated boards; built when it is missing, which takes a minute."""
    return rootfs.build(print)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcLab]:
    lab = RpcLab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build_one("tvm", small_network(), loopback_device(), tmp_path_factory.mktemp("built") / "native")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build_one("tvm", small_network(), EMULATED, tmp_path_factory.mktemp("built") / "crossed")


@pytest.fixture(scope="module")
def emulated(root: rootfs.Root) -> Iterator[RpcBoard]:
    board = RpcRunner().open(EMULATED)
    yield board
    board.close()


class TestOnLoopback(RunnerContract):
    @pytest.fixture
    def runner(self, lab: RpcLab, monkeypatch: pytest.MonkeyPatch) -> Runner:
        monkeypatch.setenv("HWNAS_LAB", str(lab.lab))
        monkeypatch.setattr("hwnas.runners.tvm_rpc.board.APPEAR_S", 20.0)
        return RpcRunner()

    @pytest.fixture
    def device(self) -> Device:
        return loopback_device()

    @pytest.fixture
    def artifact(self, native: Artifact) -> Artifact:
        return native


class TestUnderEmulation(RunnerContract):
    @pytest.fixture
    def runner(self, root: rootfs.Root) -> Runner:
        return RpcRunner()

    @pytest.fixture
    def device(self) -> Device:
        return EMULATED

    @pytest.fixture
    def artifact(self, crossed: Artifact) -> Artifact:
        return crossed


def test_sealed_messages_carry_what_was_said_and_show_every_changed_bit() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.int8)]
    kinds, data = pack_arrays(arrays)
    message = seal({"arrays": kinds}, data)
    header, payload = unseal(message)
    for given, found in zip(arrays, unpack_arrays(header["arrays"], payload)):
        np.testing.assert_array_equal(given, found)
    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            unseal(bytes(changed))
    for cut in range(len(message)):
        with pytest.raises(Corrupt):
            unseal(message[:cut])
    with pytest.raises(ValueError, match="24 bytes of arrays that take 20"):
        unpack_arrays([[[5], "float32"]], data)


def test_a_reading_on_a_board_lasts_long_enough_to_be_timed(
    lab: RpcLab, native: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = lab.open(monkeypatch)
    try:
        samples = board.run(native, 5, 30.0)
        assert samples.inner * min(samples.latency_s) > 0.5 * loopback_device().protocol.reading
        assert samples.instructions is None
        loop = board.loop(native, 0.2, 30.0)
        assert loop.ended_s - loop.began_s == pytest.approx(0.2, abs=0.1)
        assert loop.runs * min(samples.latency_s) < 0.4
        with pytest.raises(NotMeasurable, match="does not count instructions"):
            board.counts(native, 3, 30.0)
    finally:
        board.close()


def test_the_lab_says_where_boards_are(lab: RpcLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_LAB", str(tmp_path / "lab.yaml"))
    (tmp_path / "lab.yaml").write_text("schema: 1\n")
    with pytest.raises(DeviceUnavailable, match="no loopback is in the lab: .*lab.yaml"):
        RpcRunner().places(loopback_device())
    (tmp_path / "lab.yaml").write_text("rpc: [{device: loopback, port: 9, boards: 2}]\nemulated: {rpi4b-qemu: 3}\n")
    assert RpcRunner().places(loopback_device()) == (f"{KEY}@127.0.0.1:9/1", f"{KEY}@127.0.0.1:9/2")
    assert RpcRunner().places(EMULATED) == ("emulated-1", "emulated-2", "emulated-3")
    with pytest.raises(DeviceUnavailable, match="there is no board 'other' of loopback"):
        RpcRunner().open(loopback_device(), "other")
    with pytest.raises(DeviceUnavailable, match="no tracker answers at 127.0.0.1:9 "):
        RpcRunner().open(loopback_device())


def test_a_lease_ends_by_name_and_another_is_had(
    native: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that takes longer than the lease is stopped by the server; short work renews the lease before it."""
    lab = RpcLab(tmp_path, lease="3 s")
    try:
        monkeypatch.setattr("hwnas.runners.tvm_rpc.board.APPEAR_S", 20.0)
        board = lab.open(monkeypatch)
        first = board._hello["pid"]
        board.run(native, 3, 1.0)
        time.sleep(1.5)
        board.run(native, 3, 1.0)
        assert board._hello["pid"] != first
        with pytest.raises(DeviceTimeout, match=r"the lease on the board has ended \(3 s\)"):
            board.loop(native, 6.0, 1.0)
        assert board.run(native, 3, 1.0).latency_s
        board.close()
    finally:
        lab.close()


def test_an_agent_of_another_revision_is_refused(lab: RpcLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.runners.tvm_rpc.board.revision", lambda: "0123456789")
    with pytest.raises(DeviceUnavailable, match=r"another revision .*not 0123456789.*hwnas devices setup loopback"):
        lab.open(monkeypatch)


def test_a_server_that_is_not_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM's own server has no function that checks what it is sent."""
    import subprocess
    import sys

    lab = RpcLab(tmp_path)
    lab.kill_agent(with_children=True)
    tracker = f"127.0.0.1:{lab.tracker_proxy.port}"
    stock = subprocess.Popen(
        [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--key", KEY, "--tracker", tracker],
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        monkeypatch.setattr("hwnas.runners.tvm_rpc.board.APPEAR_S", 60.0)
        with pytest.raises(DeviceUnavailable, match="is not one of hwnas: set it up with `hwnas devices setup`"):
            lab.open(monkeypatch)
    finally:
        os.killpg(stock.pid, signal.SIGKILL)
        stock.wait()
        lab.close()


def test_a_tracker_cannot_send_us_to_a_stranger(lab: RpcLab, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.runners.tvm_rpc import client

    monkeypatch.setattr(client.Tracker, "keys", lambda _: {KEY: 1})
    monkeypatch.setattr(client.Tracker, "request", lambda *_: ("203.0.113.7", 9091, "ticket"))
    request = {"do": "connect", "host": "127.0.0.1", "port": lab.tracker_proxy.port, "key": KEY, "wait_s": 1.0,
               "appear_s": 1.0, "lease_s": 9.0, "server": None}  # fmt: skip
    with pytest.raises(client.Foreign, match=r"names a board at 203\.0\.113\.7"):
        client.Client().answer(request)


def test_the_state_of_a_board_is_read_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that throttles complains; one that does not answer is a complaint as well, never good health."""
    script = tmp_path / "ssh"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def board_says(flags: str) -> None:
        script.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n'
            "echo '== /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq'; echo 1500000\n"
            f"echo '== vcgencmd get_throttled'; echo throttled={flags}\n"
        )
        script.chmod(0o755)

    board_says("0x0")
    health = RemoteHealth("pi@board")
    assert health.now() == Health(1.5e9)
    assert "BatchMode=yes" in (tmp_path / "asked").read_text()
    assert health.health().complaints == ()
    board_says("0x4")
    assert any("throttled" in c for c in health.health().complaints)
    script.write_text("#!/bin/sh\nexit 255\n")
    assert health.health().complaints == ("pi@board does not tell its state over ssh",)


def test_too_many_failures_in_a_row_quarantine_and_keep_the_first_cause(
    lab: RpcLab, native: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = lab.open(monkeypatch, loopback_device(failures_in_a_row=2))
    try:
        bad = broken(native, tmp_path / "crash", CRASH, "cc")
        for _ in range(2):
            with pytest.raises(DeviceCrashed):
                board.run(bad, 3, 30.0)
        with pytest.raises(DeviceQuarantined, match="2 failures in a row; the first was: .*SIGSEGV"):
            board.run(native, 3, 30.0)
    finally:
        board.close()


def test_nothing_is_left_on_the_board(lab: RpcLab, native: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    board = lab.open(monkeypatch)
    board.run(native, 3, 30.0)
    assert len(list(lab.work.glob("*/*.so"))) == 1
    board.close()
    with pytest.raises(DeviceUnavailable, match="was closed"):
        board.run(native, 3, 30.0)
    wait_until(lambda: not list(lab.work.iterdir()), "files of a session stay on the board")


def broken(artifact: Artifact, folder: Path, code: str, compiler: str) -> Artifact:
    """An artifact whose library runs this C code as soon as it is loaded."""
    import shutil
    import subprocess

    shutil.copytree(artifact.path, folder)
    (folder / "bad.c").write_text(f"__attribute__((constructor)) void bad(void) {{ {code} }}\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "network.so", folder / "bad.c"], check=True)
    return replace(artifact, path=str(folder), flash_bytes=(folder / "network.so").stat().st_size)


class TestEmulated:
    def test_a_workload_stored_channels_last_gives_what_onnx_says(self, emulated: RpcBoard, tmp_path: Path) -> None:
        space = spaces.load("mbconv-micro")()
        parts = split(space.graph(space.sample(np.random.default_rng(0))), "tvm").workloads.values()
        model = materialize(next(w for w in parts if w.op == "Conv+HardSigmoid+Mul"))
        artifact = build_one("tvm", model, EMULATED, tmp_path / "built")
        assert read_interface(Path(artifact.path)).input_axes == ((0, 2, 3, 1), (0, 2, 3, 1))
        session = open_session(model.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
        rng = np.random.default_rng(0)
        inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
        [made] = emulated.outputs(artifact, list(inputs.values()), 60.0)
        np.testing.assert_allclose(made, session.run(None, inputs)[0], rtol=TOLERANCE, atol=TOLERANCE)

    """The Cortex-A72 under qemu-user."""

    def test_it_counts_and_knows_no_time(self, emulated: RpcBoard, crossed: Artifact) -> None:
        samples = emulated.run(crossed, 4, 60.0)
        assert samples.latency_s == ()
        assert samples.instructions is not None
        assert len(samples.instructions) == 4
        counts = emulated.counts(crossed, 3, 60.0)
        assert set(counts) == {"instructions", "memory", "simd"}
        assert counts["instructions"][-1] > counts["memory"][-1] + counts["simd"][-1] > 1000

    def test_it_says_what_counted(self, emulated: RpcBoard) -> None:
        facts = emulated.facts()
        assert facts["machine"] == "cortex-a72 under qemu-user"
        assert facts["counter"].startswith("qemu-aarch64 ")
        assert "plugin" in facts["counter"]
        assert (facts["clock_hz"], facts["temperature_c"]) == (None, None)
        assert emulated.health() == Health()

    def test_another_process_counts_the_same(self, emulated: RpcBoard, crossed: Artifact) -> None:
        """Also after other networks ran: what the allocator went through before is not seen in a count."""
        first = emulated.run(crossed, 10, 60.0).instructions
        assert first is not None
        second = RpcRunner().open(EMULATED)
        try:
            again = second.run(crossed, 10, 60.0).instructions
        finally:
            second.close()
        assert again is not None
        assert max(*first, *again) / min(*first, *again) < 1.001
        assert np.median(first) == np.median(again)

    def test_networks_of_the_space_compute_what_onnxruntime_computes(
        self, emulated: RpcBoard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Three candidates, their statistics trained so that the output depends on the input: error and counts."""
        networks = trained_candidates(3)
        with BuildPool("tvm", EMULATED, workers=1) as pool:
            built = list(pool.build([(n, tmp_path / str(i)) for i, n in enumerate(networks)]))
        for network, artifact in zip(networks, built):
            assert isinstance(artifact, Artifact)
            session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
            worst, seen = 0.0, []
            for seed in range(3):
                x = np.random.default_rng(seed).standard_normal((1, 1, 28, 28)).astype(np.float32)
                [expected] = session.run(None, {session.get_inputs()[0].name: x})
                [output] = emulated.outputs(artifact, [x], 60.0)
                worst = max(worst, float(np.abs(output - expected).max()))
                seen.append(output)
            assert np.abs(seen[0] - seen[1]).max() > 100 * TOLERANCE
            counts = emulated.run(artifact, 10, 60.0).instructions
            assert counts is not None
            with capsys.disabled():
                print(f"\nrpi4b-qemu: error {worst:.1e}, {counts[0]:.0f} instructions, "
                      f"spread {max(counts) / min(counts) - 1:.1e}", end="")  # fmt: skip
            assert worst <= TOLERANCE
            assert max(counts) / min(counts) < 1.001

    def test_a_crash_a_hang_and_a_dead_server_are_named_and_the_board_goes_on(
        self, emulated: RpcBoard, crossed: Artifact, tmp_path: Path
    ) -> None:
        good = emulated.run(crossed, 3, 60.0).instructions
        with pytest.raises(DeviceCrashed, match="SIGSEGV"):
            emulated.run(broken(crossed, tmp_path / "crash", CRASH, "aarch64-linux-gnu-gcc"), 3, 60.0)
        assert emulated.run(crossed, 3, 60.0).instructions == good
        with pytest.raises(DeviceTimeout, match="no answer within"):
            emulated.run(broken(crossed, tmp_path / "hang", HANG, "aarch64-linux-gnu-gcc"), 3, 3.0)
        assert emulated.run(crossed, 3, 60.0).instructions == good
        hosted = emulated._way.hosted
        assert hosted is not None
        assert hosted.pid is not None
        os.killpg(hosted.pid, signal.SIGKILL)
        assert emulated.run(crossed, 3, 60.0).instructions == good

    def test_a_bad_link_changes_no_count(
        self, root: rootfs.Root, crossed: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Counts repeat exactly, so that any wrong number would be seen."""
        assert EMULATED.rpc is not None
        assert EMULATED.rpc.emulated is not None
        proxy = TcpProxy(free_port())
        at = ("--port", str(proxy.to), "--announce", str(proxy.port))
        hosted = Hosted("flipped", (*root.command(EMULATED.rpc.emulated), *at), root.environment)
        monkeypatch.setattr("hwnas.runners.tvm_rpc.board.GRACE_S", 0.3)
        board = RpcBoard(EMULATED, Way("flipped", "flipped", 20.0, 1e6, hosted=hosted, counts=True))
        outcomes: Counter[str] = Counter()
        try:
            expected = board.counts(crossed, 3, 60.0)
            for seed in range(15):
                rng = random.Random(f"emulated {seed}")
                size = 120_000 if rng.random() < 0.5 else 1000
                board._disconnect()
                proxy.arm(Fault(rng.choice(("flip", "cut", "garbage")), size > 1000, int(size ** rng.random()), rng))
                try:
                    assert board.counts(crossed, 3, 2.0) == expected
                    outcomes["correct"] += 1
                except DeviceError as error:
                    outcomes[type(error).__name__] += 1
                proxy.heal()
            assert board.counts(crossed, 3, 60.0) == expected
        finally:
            board.close()
            proxy.close()
        with capsys.disabled():
            print(f"\nemulated, bad link: {dict(outcomes)}", end="")
        assert outcomes["correct"] >= 5

    def test_a_server_that_was_just_killed_is_started_again(self, emulated: RpcBoard, crossed: Artifact) -> None:
        """Between its death and its parent's notice of it, it seems to run."""
        hosted = emulated._way.hosted
        assert hosted is not None
        good = emulated.run(crossed, 3, 60.0).instructions
        emulated._disconnect()
        with pytest.MonkeyPatch.context() as patch:
            begun = hosted.start
            assert hosted._agent is not None
            agent = hosted._agent

            def late() -> int:
                port = begun()
                patch.setattr(hosted, "start", begun)
                os.killpg(agent.pid, signal.SIGKILL)
                return port

            patch.setattr(hosted, "start", late)
            assert emulated.run(crossed, 3, 60.0).instructions == good
        assert hosted._agent is not agent

    def test_a_library_for_another_processor_is_refused(self, emulated: RpcBoard, native: Artifact) -> None:
        with pytest.raises(DeviceError, match="was built for x86_64, but the board is aarch64"):
            emulated.run(native, 3, 60.0)

    def test_it_dies_with_its_user(self, root: rootfs.Root, crossed: Artifact, tmp_path: Path) -> None:
        """Tracker, server and a session that hangs all end when hwnas is killed."""
        import subprocess
        import sys

        bad = broken(crossed, tmp_path / "hang", HANG, "aarch64-linux-gnu-gcc")
        code = (
            "import sys; from pathlib import Path\n"
            "from hwnas.config import load_device; from hwnas.core.artifact import read_artifact\n"
            "from hwnas.runners.tvm_rpc import RpcRunner; from dataclasses import replace\n"
            "board = RpcRunner().open(load_device('rpi4b-qemu'))\n"
            "print(board._way.hosted.pid, flush=True)\n"
            f"board.run(replace(read_artifact(Path(sys.argv[1])), flash_bytes={bad.flash_bytes}), 3, 600.0)\n"
        )
        user = subprocess.Popen([sys.executable, "-c", code, bad.path], stdout=subprocess.PIPE, text=True)
        assert user.stdout is not None
        server = int(user.stdout.readline())
        children = Path(f"/proc/{server}/task/{server}/children")
        wait_until(lambda: children.read_text().split(), "no session begins")
        session = int(children.read_text().split()[0])
        time.sleep(0.5)
        user.kill()
        user.wait()
        user.stdout.close()
        wait_until(lambda: not alive(server) and not alive(session), "the emulated board outlives its user")


def trained_candidates(n: int) -> list[Any]:
    """Candidates of mbconv-micro as ONNX, with the statistics of normalisation taken from random images."""
    import torch

    from hwnas.graph.export import export

    torch.set_num_threads(1)
    space = spaces.load("mbconv-micro")(resolution=28, channels=1, classes=10)
    rng = np.random.default_rng(3)
    networks = []
    for seed in range(n):
        torch.manual_seed(seed)
        network = space.decode(space.sample(rng)).train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean of all batches
        with torch.no_grad():
            for _ in range(4):
                network(torch.randn(16, 1, 28, 28))
        networks.append(export(network.eval(), space.input_shape))
    return networks


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
