"""The mbconv space: its text, its settings, its presets and its one-dimensional form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, ConfigError
from hwnas.graph.analysis import analyse
from hwnas.graph.chain import chain
from hwnas.graph.fusion import split
from hwnas.spaces.mbconv import MbconvSpace, mbconv_micro, mbconv_mobile

TEXT = "s16k3d2R|8d1R:k5e2,k3e1q+|24d2R:k3e4|32d2R:k3e1q,k5e2,k3e4+|128R"


def test_text_says_what_the_network_is():
    space = mbconv_micro()
    candidate = space.parse(TEXT)
    assert space.encode(candidate) == TEXT
    stem, first, second, third, *_, head = space.specs(candidate)
    assert (stem.width, stem.kernel, stem.stride, stem.activation) == (16, (3, 3), (2, 2), "relu6")
    assert (first.size, first.inputs, first.width, first.kernel, first.expansion) == ((14, 14), 16, 8, (5, 5), 2)
    assert not first.residual and not first.squeeze
    assert second.residual and second.squeeze == 8 and second.hidden == 8
    assert (third.stride, third.width, third.expansion) == ((2, 2), 24, 4)
    assert (head.size, head.inputs, head.width, head.classes) == ((4, 4), 32, 128, 10)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s16", "s17", r"stem.width is 17, this space allows 8, 16"),
        ("k5e2,k3e1q+", "k7e2", r"stage1.block1.kernel is 7, this space allows 3, 5"),
        ("8d1R", "8d2R", r"stage1.stride is 2, this space allows 1"),
        ("k3e4|", "k3e4+|", "block 1 of stage 2 changes the shape"),
        ("k3e4|", "k3e4,k3e4,k3e4,k3e4|", r"stage2.depth is 4, this space allows 1, 2, 3"),
        ("k3e4|", "k3|", r"'k3' does not describe block 1 of stage 2"),
        ("24d2R", "24d2H", r"stage2.activation is hardswish, this space allows relu6"),
        ("24d2R:", "24d2R", "does not describe stage 2"),
        ("|128R", "|128", "the head '128' needs a width and an activation"),
        ("|128R", "|0R", "the head '0R' needs"),
        ("|128R", "", "has 4 parts between |, this space has 5"),
        ("s16k3d2R", "stem", "'stem' does not describe the stem"),
        ("s16", "s016", "does not describe the stem"),
        ("e1q+", "e1+q", "does not describe block 2 of stage 1"),
    ],
)
def test_wrong_texts_name_the_part_and_what_is_allowed(old, new, message):
    assert old in TEXT
    with pytest.raises(CandidateError, match=message.replace("|,", r"\|,")):
        mbconv_micro().parse(TEXT.replace(old, new))


def test_texts_of_other_kinds_are_refused():
    for text in (7, None, "x" * 10_000):
        with pytest.raises(CandidateError, match="is not the text of an mbconv candidate"):
            mbconv_micro().parse(text)


def test_genes_without_effect_must_be_zero():
    space = mbconv_micro()
    genotype = list(space.parse("s8k3d2R|8d1R:k3e1+|16d2R:k3e1|32d2R:k3e1|0").genotype)
    names = space._genes.names
    place = names.index("stage1.block2.kernel")
    genotype[place] = 1
    with pytest.raises(CandidateError, match=r"gene stage1.block2.kernel of .* has no effect here and must be 0"):
        space.decode(Candidate(space.id, tuple(genotype)))
    # a batch may hold such rows: they count as what they decode to
    clean = [0 if i == place else g for i, g in enumerate(genotype)]
    assert np.array_equal(space.macs(np.array([genotype])), space.macs(np.array([clean])))
    assert np.array_equal(space.features(np.array([genotype])), space.features(np.array([clean])))


def test_equal_networks_of_a_preset_are_equal_candidates():
    space = mbconv_micro()
    genotypes = np.unique(space.sample_batch(5000, np.random.default_rng(0)), axis=0)
    specs = {space.specs(Candidate(space.id, tuple(g))) for g in genotypes.tolist()}
    assert len(specs) == len(genotypes)


def test_micro_is_sized_for_microcontrollers():
    space = mbconv_micro()
    genotypes = space.sample_batch(20_000, np.random.default_rng(0))
    params, macs = space.params(genotypes), space.macs(genotypes)
    assert params.min() < 5_000 and 100_000 < params.max() < 250_000
    assert 0.3e6 < np.median(macs) < 0.7e6 and macs.max() < 4.5e6
    assert np.quantile(macs, 0.95) > 8 * np.quantile(macs, 0.05)


def test_mobile_is_sized_like_mobilenet_v3():
    space = mbconv_mobile()
    genotypes = space.sample_batch(5000, np.random.default_rng(0))
    assert space.input_shape == (1, 3, 224, 224)
    assert 1.5e6 < np.median(space.params(genotypes)) < 6e6
    assert 1e8 < np.median(space.macs(genotypes)) < 6e8


@pytest.mark.parametrize("rules", ["ort", "tvm"])
def test_distinct_workloads_of_micro_are_few_enough_to_measure(rules):
    found = set()
    for block in mbconv_micro().enumerate_blocks():
        found |= set(split(block.build(), rules).parts)
    assert 300 <= len(found) <= 800


def test_enumerated_blocks_are_those_that_occur():
    space = mbconv_micro()
    enumerated = {b.key for b in space.enumerate_blocks()}
    assert len(enumerated) == len(space.enumerate_blocks())
    counted = space.block_counts(space.sample_batch(100_000, np.random.default_rng(0)))
    assert {b.key for b in counted.blocks} == enumerated


def test_peak_memory_is_the_largest_of_the_blocks():
    space = mbconv_micro()
    rng = np.random.default_rng(0)
    for _ in range(40):
        built = [b.build() for b in space.blocks(space.sample(rng))]
        whole = analyse(chain(built)).peak_activation_bytes
        assert max(analyse(b).peak_activation_bytes for b in built) == whole


def test_blocks_that_recur_have_weights_of_their_own():
    space = mbconv_micro()
    once, twice = (space.graph(space.parse(f"s8k3d2R|{stage}|16d2R:k3e1|32d2R:k3e1|0"))
                   for stage in ("8d1R:k3e2+", "8d1R:k3e2+,k3e2+,k3e2+"))  # fmt: skip
    weights = [
        {t.raw_data for t in network.graph.initializer if len(t.dims) and t.data_type == 1} for network in (once, twice)
    ]
    tensors = [sum(bool(len(t.dims)) and t.data_type == 1 for t in n.graph.initializer) for n in (once, twice)]
    assert [len(w) for w in weights] == tensors, "two weights are equal, which a toolchain would store once"
    assert weights[0] < weights[1] and tensors[1] > tensors[0]
    assert len(split(twice, "tvm").workloads) == len(split(once, "tvm").workloads)


def test_one_dimensional_networks_convolve_along_time():
    space = MbconvSpace(resolution=[1, 64], channels=6, classes=7)
    assert space.input_shape == (1, 6, 1, 64)
    candidate = space.sample(np.random.default_rng(0))
    network = space.decode(candidate).eval()
    windows = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {m.kernel_size[0] for m in windows} == {m.stride[0] for m in windows} == {1}
    x = torch.randn(2, 6, 64)
    assert torch.equal(network(x), network(x.unsqueeze(2)))


def test_settings_come_from_yaml():
    document = yaml.safe_load(
        """
        resolution: 96
        channels: 3
        classes: 2
        stem: {widths: [8], kernels: [3], strides: [2]}
        stages:
          - {widths: [8, 16], depths: [1, 2], squeezes: [false]}
          - {widths: [32], expansions: [1, 6], residuals: [true]}
        """
    )
    space = MbconvSpace(**document)
    assert (
        space.encode(space.parse("s8k3d2R|16d2R:k3e4|32d2R:k3e6,k5e1q+|0")) == "s8k3d2R|16d2R:k3e4|32d2R:k3e6,k5e1q+|0"
    )
    assert space.id == MbconvSpace(**document).id
    assert space.id != MbconvSpace(**{**document, "squeeze_ratio": 0.5}).id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": 28}, r"unknown key \(did you mean resolution\?\)"),
        ({"stem": {"width": [8]}}, r"unknown key \(did you mean widths\?\)"),
        ({"stages": [{"widths": [8], "kernel": [3]}]}, r"stages.0.kernel: unknown key \(did you mean kernels\?\)"),
        ({"name": "mine"}, "name: unknown key"),
        ({"stages": [{}]}, "widths: is required"),
        ({"stages": []}, "stages: .*at least 1"),
        ({"stages": [{"widths": []}]}, "widths: .*at least 1"),
        ({"stem": {"kernels": [4]}}, "a kernel is odd, got 4"),
        ({"stem": {"widths": [8, 8]}}, "choices repeat: 8, 8"),
        ({"stem": {"activations": ["relu"]}}, "'relu6' or 'hardswish'"),
        ({"stages": [{"widths": [8.5]}]}, "valid integer"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"resolution": 0}, "greater than or equal to 1"),
        ({"squeeze_ratio": 2.0}, "less than or equal to 1"),
    ],
)
def test_wrong_settings_name_the_key(settings, message):
    with pytest.raises(ConfigError, match=message):
        MbconvSpace(**settings)


def test_a_space_too_large_to_tabulate_is_refused():
    many = {
        "widths": list(range(1, 65)),
        "strides": [1, 2],
        "expansions": list(range(1, 11)),
        "kernels": [1, 3, 5, 7, 9],
    }
    space = MbconvSpace(stem={"widths": list(range(1, 65))}, stages=[many])
    with pytest.raises(ConfigError, match="kinds of block, at most 2,000,000"):
        space.block_counts(space.sample_batch(1, np.random.default_rng(0)))
