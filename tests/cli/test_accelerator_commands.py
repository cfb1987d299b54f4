"""Accelerators on the command line: what they compute, what a network costs on them, and that it says simulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hwnas import api
from hwnas.errors import EXIT_BUILD, EXIT_USAGE
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.precision import cast


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One float network, the same in int8, and one with a convolution that Ethos-U does not compute."""
    folder = tmp_path_factory.mktemp("networks")

    def built(groups: int) -> onnx.ModelProto:
        graph = GraphBuilder("it")
        x = graph.relu6(graph.conv(graph.input((1, 4, 16, 16)), 8, (3, 3)))
        return graph.build(graph.conv(x, 8, (3, 3), groups=groups))

    found = {"float": built(1), "int8": cast(built(1), "int8"), "grouped": cast(built(2), "int8")}
    for name, model in found.items():
        onnx.save(model, str(folder / f"{name}.onnx"))
    return {name: folder / f"{name}.onnx" for name in found}


def test_the_support_table_is_made_of_the_rules(cli: Any) -> None:
    done = cli("devices", "support", "ethos-u55-128")
    assert done.code == 0 and "channels form one group, or each channel its own" in done.out
    rows = json.loads(cli("devices", "support", "ethos-u55-128", "--json").out)
    assert {"operator", "rule", "conditions"} == rows[0].keys()
    assert any(row["operator"] == "Conv" and row["rule"] == "convolution" for row in rows)


def test_a_device_without_rules_says_so(cli: Any) -> None:
    done = cli("devices", "support", "host")
    assert done.code == EXIT_USAGE and "no support rules" in done.err


def test_a_device_shows_clock_energy_rule_and_companion_with_their_sources(cli: Any) -> None:
    done = cli("devices", "show", "ethos-u55-128")
    assert done.code == 0
    for words in ("500 MHz", "energy (model)", "0.3 pJ a MAC", "a model, nothing was measured", "CPU rest (model)"):
        assert words in done.out, words


def test_a_network_is_priced_and_every_number_says_how_it_came_about(
    cli: Any, networks: dict[str, Path], tmp_path: Path
) -> None:
    done = cli("price", networks["int8"], "--device", "ethos-u55-128", "-o", tmp_path / "built")
    assert done.code == 0, done.err
    for words in (
        "cycles (cycle-sim)",
        "latency (cycle-sim)",
        "energy (model)",
        "Vela 5.2",
        "CPU and transfer: models",
    ):
        assert words in done.out, words
    assert (tmp_path / "built" / "price.json").is_file()


def test_the_price_as_json(cli: Any, networks: dict[str, Path]) -> None:
    found = json.loads(cli("price", networks["int8"], "--device", "ethos-u55-128", "--json").out)
    assert found["fidelity"] == "cycle-sim" and found["toolchain"] == "vela"
    values, price = found["values"], found["price"]
    assert values["cycles"] == pytest.approx(sum(price["parts"].values()))
    assert values["latency"] == pytest.approx(values["cycles"] / 500e6)
    assert found["fidelities"]["energy"] == "model" and found["fidelities"]["cycles"] == "cycle-sim"
    assert values["energy"] > 0 and values["sram"] > 0 and len(price["layers"]) >= 2


def test_a_float_network_is_refused_and_can_be_priced_nominally(cli: Any, networks: dict[str, Path]) -> None:
    refused = cli("price", networks["float"], "--device", "ethos-u55-128")
    assert refused.code == EXIT_BUILD and "quantise the network" in refused.err
    nominal = json.loads(cli("price", networks["float"], "--device", "ethos-u55-128", "--nominal", "--json").out)
    quantised = json.loads(cli("price", networks["int8"], "--device", "ethos-u55-128", "--json").out)
    assert nominal["values"]["cycles"] == quantised["values"]["cycles"]


def test_what_no_rule_takes_is_named_and_may_run_on_the_cpu(cli: Any, networks: dict[str, Path]) -> None:
    refused = cli("price", networks["grouped"], "--device", "ethos-u55-128")
    assert (
        refused.code == EXIT_BUILD and "channels form one group, or each channel its own; given 2 groups" in refused.err
    )
    lenient = json.loads(
        cli("price", networks["grouped"], "--device", "ethos-u55-128", "--allow-cpu-fallback", "--json").out
    )
    assert lenient["price"]["parts"]["cpu"] > 0
    [named] = [x for x in lenient["price"]["layers"] if x["where"] == "cpu" and x["macs"] > 0]
    assert "channels form one group" in named["reason"]
    told = cli("price", networks["grouped"], "--device", "ethos-u55-128", "--allow-cpu-fallback").out
    assert "on the CPU, and why" in told and "given 2 groups of 8" in told


def test_an_open_shape_is_fixed_by_hand(cli: Any, networks: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(str(networks["int8"]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, str(tmp_path / "open.onnx"))
    refused = cli("price", tmp_path / "open.onnx", "--device", "ethos-u55-128")
    assert refused.code == EXIT_USAGE and "--shape" in refused.err
    name = model.graph.input[0].name
    assert cli("price", tmp_path / "open.onnx", "--device", "ethos-u55-128", "--shape", f"{name}=1x4x16x16").code == 0


def test_an_estimate_beyond_the_table_says_so(cli: Any, networks: dict[str, Path]) -> None:
    tables = Path(__file__).parents[2] / "latency_tables"
    done = cli("estimate", networks["int8"], "--device", "ethos-u55-128", "--table", tables)
    assert done.code == 0 and "are not in the table and were extrapolated: hwnas price" in done.out


def test_only_accelerators_are_priced_and_only_they_may_fall_back(cli: Any, networks: dict[str, Path]) -> None:
    done = cli("price", networks["int8"], "--device", "host")
    assert done.code == EXIT_USAGE and "host is no accelerator" in done.err
    done = cli("profile", "host", "--space", "mbconv-micro", "--allow-cpu-fallback", "--dry-run")
    assert done.code == EXIT_USAGE and "no accelerator that could leave work to a CPU" in done.err


def test_a_network_of_the_users_own_becomes_rows_and_an_estimate(
    cli: Any, networks: dict[str, Path], tmp_path: Path
) -> None:
    assert cli("profile", "ethos-u55-128", "--onnx", networks["int8"], "--table", tmp_path).code == 0
    done = cli("estimate", networks["int8"], "--device", "ethos-u55-128", "--table", tmp_path)
    assert done.code == 0, done.err
    assert (
        "cycle-sim" in done.out and "cycles over the clock" in done.out and "a model over simulated traffic" in done.out
    )
    also = json.loads(cli("estimate", networks["int8"], "--device", "ethos-u55-128", "--table", tmp_path, "--json").out)
    assert also["also"]["latency"]["mean"] == pytest.approx(also["mean"] / 500e6)


TABLES = Path(__file__).parents[2] / "latency_tables"


def test_what_cannot_run_is_not_estimated(cli: Any, networks: dict[str, Path]) -> None:
    floats = cli("estimate", networks["float"], "--device", "ethos-u55-128", "--table", TABLES)
    assert floats.code == EXIT_USAGE and "computes in int8: quantise the network first" in floats.err
    refused = cli("estimate", networks["grouped"], "--device", "ethos-u55-128", "--table", TABLES)
    assert refused.code == EXIT_BUILD and "each channel its own; given 2 groups" in refused.err
    lenient = cli(
        "estimate", networks["grouped"], "--device", "ethos-u55-128", "--table", TABLES, "--allow-cpu-fallback"
    )
    assert lenient.code == 0 and "cycle-sim" in lenient.out


def test_candidates_in_floats_are_not_estimated_where_only_integers_are_computed(cli: Any, tmp_path: Path) -> None:
    space = api.load_space("mbconv-micro")
    text = space.encode(space.sample(np.random.default_rng(0)))
    (tmp_path / "c.csv").write_text(f'candidate\n"{text}"\n')
    asked = ("estimate", "--space", "mbconv-micro", "--candidates", tmp_path / "c.csv", "--device", "ethos-u55-128")
    refused = cli(*asked, "--table", TABLES, "--precision", "fp32")
    assert refused.code == EXIT_USAGE and "int8" in refused.err
    done = cli(*asked, "--table", TABLES)
    assert done.code == 0 and len(done.out.splitlines()) == 2


def test_a_predictor_of_energy_says_that_it_is_a_model(cli: Any, networks: dict[str, Path], tmp_path: Path) -> None:
    table = TABLES / "ethos-u55-128" / "cycle-sim-vela.jsonl"
    fitted = cli("fit", table, "--metric", "energy", "-o", tmp_path / "energy.json")
    assert fitted.code == 0 and "model energy" in fitted.out and "cycle-sim" not in fitted.out
    done = cli("estimate", networks["int8"], "--device", "ethos-u55-128", "--predictor", tmp_path / "energy.json")
    assert done.code == 0 and "estimated from predictor, model" in done.out
    both = json.loads(cli("estimate", networks["int8"], "--device", "ethos-u55-128", "--table", TABLES, "--json").out)
    assert (both["fidelity"], both["also"]["energy"]["fidelity"]) == ("cycle-sim", "model")


def test_a_file_name_in_brackets_is_a_name(cli: Any, networks: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "[red].onnx"
    file.write_bytes(networks["int8"].read_bytes())
    done = cli("price", file, "--device", "ethos-u55-128")
    assert done.code == 0 and "[red].onnx on ethos-u55-128" in done.out
