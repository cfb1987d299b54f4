"""The contract of spaces, toolchains, runners, strategies and proxies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.core.artifact import read_artifact
from hwnas.core.device import Device
from hwnas.core.interfaces import BatchSpace, Health, Runner, SearchSpace, Toolchain
from hwnas.core.measurement import Samples
from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.errors import BuildError, CandidateError, DeviceError, UnsupportedOperator
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.export import export
from hwnas.graph.fusion import split


class SearchSpaceContract:
    """What every search space promises. Fixture `space`; override `exported` to test more candidates."""

    exported = 2

    @pytest.fixture
    def space(self) -> SearchSpace:
        raise NotImplementedError("give the suite a fixture `space`")

    def draw(self, space: SearchSpace, n: int, seed: int = 0) -> list[Candidate]:
        rng = np.random.default_rng(seed)
        return [space.sample(rng) for _ in range(n)]

    def test_same_seed_same_candidates(self, space: SearchSpace) -> None:
        np.random.seed(1)  # noqa: NPY002 (the global state must not matter)
        first = self.draw(space, 20)
        np.random.seed(2)  # noqa: NPY002
        assert self.draw(space, 20) == first
        assert self.draw(space, 20, seed=1) != first

    def test_text_and_back(self, space: SearchSpace) -> None:
        for candidate in self.draw(space, 50):
            assert space.parse(space.encode(candidate)) == candidate
            assert candidate.space == space.id

    def test_foreign_text_is_an_error(self, space: SearchSpace) -> None:
        for text in ("", "no such candidate", "|||", "🙂", "0" * 10_000):
            with pytest.raises(CandidateError):
                space.parse(text)

    def test_foreign_candidates_are_an_error(self, space: SearchSpace) -> None:
        own = self.draw(space, 1)[0]
        with pytest.raises(CandidateError):
            space.decode(Candidate("another-space", own.genotype))
        with pytest.raises(CandidateError):
            space.decode(Candidate(space.id, (*own.genotype, 0)))

    def test_children_stay_in_the_space(self, space: SearchSpace) -> None:
        rng = np.random.default_rng(0)
        a, b = self.draw(space, 2)
        for _ in range(50):
            a, b = space.mutate(a, rng), space.crossover(a, b, rng)
            for child in (a, b):
                assert space.parse(space.encode(child)) == child

    def test_mutation_changes_something(self, space: SearchSpace) -> None:
        rng = np.random.default_rng(0)
        parent = self.draw(space, 1)[0]
        assert any(space.mutate(parent, rng) != parent for _ in range(5))

    def test_blocks_are_the_exported_network(self, space: SearchSpace) -> None:
        for candidate in self.draw(space, self.exported, seed=3):
            whole = split(export(space.decode(candidate), space.input_shape), "ort").parts
            pieces: Counter[str] = Counter()
            for block in space.blocks(candidate):
                pieces.update(split(block.build(), "ort").parts)
            assert dict(pieces) == dict(whole), space.encode(candidate)

    def test_the_network_has_the_declared_shapes(self, space: SearchSpace) -> None:
        import torch

        with torch.no_grad():
            output = space.decode(self.draw(space, 1)[0]).eval()(torch.zeros(space.input_shape))
        assert tuple(output.shape) == (1, space.classes)

    def test_batches_equal_single_candidates(self, space: SearchSpace) -> None:
        if not isinstance(space, BatchSpace):
            return  # a space may do without batches; it is then estimated one candidate at a time
        genotypes = space.sample_batch(20, np.random.default_rng(0))
        counts = space.block_counts(genotypes)
        for row, genotype in zip(counts.counts.toarray(), genotypes):
            expected = Counter(b.key for b in space.blocks(Candidate(space.id, tuple(map(int, genotype)))))
            assert {b.key: int(n) for b, n in zip(counts.blocks, row) if n} == dict(expected)
        assert np.isfinite(space.features(genotypes)).all()


def small_network(channels: int = 8) -> Any:
    """A network of two convolutions and a classifier, as ONNX, for suites and examples."""
    graph = GraphBuilder(f"small-{channels}")
    x = graph.relu6(graph.conv(graph.input((1, 1, 12, 12)), channels, (3, 3)))
    x = graph.relu6(graph.conv(x, channels, (3, 3), (1, 1), channels))
    return graph.build(graph.linear(graph.flatten(graph.spatial_mean(x)), 4))


class ToolchainContract:
    """What every toolchain promises. Fixtures `toolchain` and `device`."""

    @pytest.fixture
    def toolchain(self) -> Toolchain:
        raise NotImplementedError("give the suite a fixture `toolchain`")

    @pytest.fixture
    def device(self) -> Device:
        raise NotImplementedError("give the suite a fixture `device`")

    def test_it_names_itself_and_its_version(self, toolchain: Toolchain) -> None:
        assert toolchain.name
        assert toolchain.version()
        split(small_network(), toolchain.rules)

    def test_an_artifact_says_how_it_was_made(self, toolchain: Toolchain, device: Device, tmp_path: Path) -> None:
        artifact = toolchain.build(small_network(), device, tmp_path / "built")
        assert (artifact.toolchain, artifact.version) == (toolchain.name, toolchain.version())
        assert artifact.schedule
        assert artifact.options["threads"] == device.threads(toolchain.name)
        assert artifact.flash_bytes
        assert read_artifact(Path(artifact.path)) == artifact

    def test_an_unknown_operator_is_named(self, toolchain: Toolchain, device: Device, tmp_path: Path) -> None:
        network = small_network()
        network.graph.node[0].domain = "com.example"
        network.graph.node[0].op_type = "Frobnicate"
        assert toolchain.unsupported(network.graph.node[0])
        with pytest.raises((UnsupportedOperator, BuildError), match=r"Frobnicate|com\.example"):
            toolchain.build(network, device, tmp_path / "built")


class RunnerContract:
    """What every runner promises. Fixtures `runner`, `device` and `artifact` (of `small_network`)."""

    @pytest.fixture
    def runner(self) -> Runner:
        raise NotImplementedError("give the suite a fixture `runner`")

    @pytest.fixture
    def device(self) -> Device:
        raise NotImplementedError("give the suite a fixture `device`")

    @pytest.fixture
    def artifact(self) -> Any:
        raise NotImplementedError("give the suite a fixture `artifact`")

    def test_readings_are_positive_and_as_many_as_asked(self, runner: Runner, device: Device, artifact: Any) -> None:
        board = runner.open(device)
        try:
            samples = board.run(artifact, 5, 30.0)
            assert isinstance(samples, Samples)
            assert len(samples.readings(device.metric)) == 5
            assert min(samples.readings(device.metric)) > 0
            if device.metric != "latency":
                assert not samples.latency_s, "emulated wall time is never a latency"
        finally:
            board.close()

    def test_it_knows_its_machine(self, runner: Runner, device: Device) -> None:
        board = runner.open(device)
        try:
            assert board.facts()["machine"]
        finally:
            board.close()

    def test_it_names_its_boards_and_refuses_others(self, runner: Runner, device: Device) -> None:
        places = runner.places(device)
        assert places
        assert len(set(places)) == len(places)
        runner.open(device, places[0]).close()
        with pytest.raises(DeviceError):
            runner.open(device, "no-such-board")

    def test_its_health_is_told_and_a_loop_lasts(self, runner: Runner, device: Device, artifact: Any) -> None:
        board = runner.open(device)
        try:
            assert isinstance(board.health(), Health)
            board.stage([artifact])
            loop = board.loop(artifact, 0.2, 30.0)
            assert loop.runs >= 1
            assert loop.ended_s > loop.began_s
        finally:
            board.close()

    def test_closing_twice_is_fine(self, runner: Runner, device: Device) -> None:
        board = runner.open(device)
        board.close()
        board.close()

    def test_a_missing_artifact_is_a_device_error_and_the_board_goes_on(
        self, runner: Runner, device: Device, artifact: Any
    ) -> None:
        from dataclasses import replace

        board = runner.open(device)
        try:
            with pytest.raises(DeviceError):
                board.run(replace(artifact, path=artifact.path + "-gone"), 3, 30.0)
            assert board.run(artifact, 3, 30.0).readings(device.metric)
        finally:
            board.close()


class StrategyContract:
    """What every search strategy promises. Fixture `build`: seed -> a fresh strategy on `space`."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        raise NotImplementedError("give the suite a fixture `space`")

    @pytest.fixture
    def build(self) -> Any:
        raise NotImplementedError("give the suite a fixture `build`")

    def drive(self, strategy: Any, space: SearchSpace, rounds: int = 4) -> list[Candidate]:
        asked: list[Candidate] = []
        for _ in range(rounds):
            batch = strategy.ask(4)
            trials = [
                Trial(
                    len(asked) + i,
                    c,
                    space.encode(c),
                    accuracy=(sum(c.genotype) % 17) / 17,
                    violations={"latency": -0.1},
                )
                for i, c in enumerate(batch)
            ]
            asked += batch
            strategy.tell(trials)
        return asked

    def test_same_seed_same_candidates_whatever_the_global_state(self, build: Any, space: SearchSpace) -> None:
        np.random.seed(1)  # noqa: NPY002
        first = self.drive(build(0), space)
        np.random.seed(2)  # noqa: NPY002
        assert self.drive(build(0), space) == first
        assert self.drive(build(1), space) != first

    def test_it_asks_for_candidates_of_the_space(self, build: Any, space: SearchSpace) -> None:
        asked = self.drive(build(0), space)
        assert asked
        for candidate in asked:
            assert space.parse(space.encode(candidate)) == candidate


class ProxyContract:
    """What every proxy promises. Fixture `proxy`."""

    @pytest.fixture
    def proxy(self) -> Any:
        raise NotImplementedError("give the suite a fixture `proxy`")

    def test_a_finite_number_and_the_network_unchanged(self, proxy: Any) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
        before = {k: v.clone() for k, v in network.state_dict().items()}
        batch = (torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,)))
        first = proxy(network, batch)
        assert np.isfinite(first)
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        assert proxy(network, batch) == pytest.approx(first, rel=1e-5)
