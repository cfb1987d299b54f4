"""Every command: its help, its output for people and programs, its exit codes, and its words for mistakes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import pytest

from hwnas import config, registry
from hwnas.cli.main import app
from hwnas.core.device import Device
from hwnas.core.measurement import Samples
from hwnas.errors import EXIT_BUG, EXIT_BUILD, EXIT_DEVICE, EXIT_NO, EXIT_USAGE
from hwnas.tables.table import LatencyTable
from hwnas.testing import small_network

TABULAR = """
schema: 1
name: lookup
summary: answers from a CSV
fidelity: hardware
compute: {cores: 1, isa: none, macs_per_s: 1 G/s, overhead: 1 us, source: chosen for a test}
memories: [{use: ram, source: chosen for a test}]
dtypes: [fp32]
toolchains: [ort]
runner: tabular
tabular: {file: m.csv, candidate: net, metrics: {latency: ms}, unit: {latency: ms}}
"""


def command_names() -> list[list[str]]:
    found = [[c.name or c.callback.__name__] for c in app.registered_commands if c.callback]
    for group in app.registered_groups:
        assert group.name
        found.append([group.name])
        assert group.typer_instance is not None
        found += [[group.name, str(c.name)] for c in group.typer_instance.registered_commands]
    return found


@pytest.mark.parametrize("command", [[], *command_names()], ids=" ".join)
def test_every_command_has_help(cli: Any, command: list[str]) -> None:
    done = cli(*command, "--help")
    assert done.code == 0
    assert "Usage" in done.out


def test_the_commands_are_those_of_the_design() -> None:
    names = {" ".join(c) for c in command_names()}
    assert {"devices list", "devices show", "devices check", "devices probe", "profile", "table show", "table check",
            "table merge", "table diff", "table import", "table export", "fit", "estimate", "proxies", "search",
            "verify", "export", "report", "doctor"} <= names  # fmt: skip


def test_version(cli: Any) -> None:
    assert cli("--version").out.startswith("hwnas ")


# -- devices


def test_devices_are_listed_and_shown_with_their_sources(cli: Any) -> None:
    assert "host" in cli("devices", "list").out
    listed = json.loads(cli("devices", "list", "--json").out)
    assert {d["name"] for d in listed} == set(config.device_files())
    shown = cli("devices", "show", "host").out
    device = config.load_device("host")
    assert device.digest in shown
    assert device.compute.source in shown
    document = json.loads(cli("devices", "show", "host", "--json").out)
    assert Device.model_validate(document).digest == device.digest


def test_devices_check_says_no_to_an_unsound_file(cli: Any, tmp_path: Path) -> None:
    text = config.device_files()["host"].read_text()
    for old, new, message in (
        ("runner: local", "runner: locall", "did you mean local"),
        ("toolchains: [ort, tvm]", "toolchains: [ort, tvm, tvmm]", "did you mean tvm"),
        ("schema: 1", "schema: 7", "schema"),
    ):
        path = tmp_path / "host.yaml"
        path.write_text(text.replace(old, new))
        done = cli("devices", "check", path, config.device_files()["host"])
        assert done.code == EXIT_NO
        assert message in done.err
        assert done.out.count("ok ") == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("fpga-systolic-16x16", "rows: 16", "rows: 0", "array"),
        ("ethos-u55-128", ", sram: 512 KiB}", "}", "sram"),
        ("ethos-u55-128", ", sram: 512 KiB}", ", sram: 256 KiB}", "the same memory"),
        ("coral-edgetpu", "subgraphs: one", "subgraphs: two", "subgraphs"),
        ("npu-eyeriss", "sum_bits: ", "sum_bits: 1", "sum_bits"),
    ],
)
def test_devices_check_asks_the_toolchain(
    cli: Any, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    text = config.device_files()[name].read_text()
    assert old in text
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace(old, new))
    done = cli("devices", "check", path)
    assert done.code == EXIT_NO and message in done.err and path.name in done.err


def test_nested_options_are_shown_one_a_line_without_their_sources(cli: Any) -> None:
    lines = cli("devices", "show", "coral-edgetpu").out.splitlines()
    assert "toolchain edgetpu: allow_cpu_fallback=True, subgraphs=one" in lines
    assert "  law.peak 2 T/s" in lines and "  law.wait 89 us" in lines
    assert not any("{" in line or ".sources" in line for line in lines)


def test_devices_probe_tells_what_the_machine_is(cli: Any) -> None:
    facts = json.loads(cli("devices", "probe", "host", "--json").out)
    assert facts["machine"]
    assert "machine" in cli("devices", "probe", "host").out


def test_a_device_that_runs_nothing_is_exit_3(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lookup.yaml").write_text(TABULAR)
    monkeypatch.setenv("HWNAS_DEVICES", str(tmp_path))
    done = cli("devices", "probe", "lookup")
    assert done.code == EXIT_DEVICE
    assert "runs nothing" in done.err


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devices", "show", "hots"], "no device 'hots' (did you mean host?)"),
        (["profile", "host", "--space", "mbconv-mirco"], "did you mean mbconv-micro"),
        (["profile", "host", "--space", "mbconv-micro", "--toolchain", "tmv"], "did you mean tvm?"),
        (["profile", "host", "--space", "mbconv-micro", "--set", "clases=3"], "did you mean classes"),
        (["profile", "host", "--space", "mbconv-micro", "--set", "classes"], "write it as key=value"),
        (["profile", "host"], "name either --space or --onnx"),
        (["profile", "host", "--space", "cell", "--onnx", "x.onnx"], "name either --space or --onnx"),
        (["profile", "host", "--space", "cell", "--for", "10"], "'10' has no unit; write it like '15 ms'"),
        (["profile", "host", "--onnx", "none.onnx"], "none.onnx"),
        (["estimate"], "name an ONNX file, or --space with --candidates"),
        (["estimate", "none.onnx"], "a network needs --device"),
        (["fit"], "name either a latency table or --measurements"),
        (["fit", "none.jsonl"], "none.jsonl"),
        (["table", "show", "none.jsonl"], "none.jsonl"),
        (["table", "import", "xls", "x"], "known is csv"),
        (["search", "none.yaml"], "cannot be read"),
        (["verify", "."], "holds neither a bundle nor a finished run"),
        (["report", "."], "record.json"),
        (["export", ".", "--candidate", "x", "--format", "tvn"], "did you mean tvm?"),
        (["export", ".", "--candidate", "x", "--format", "onnx"], "finish the search first"),
        (["nonsense"], "No such command"),
        (["search"], "Missing argument"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_exit_2_and_shows_the_remedy(
    cli: Any, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.code == EXIT_USAGE
    assert message in " ".join(done.err.replace("│", " ").split())
    assert not done.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bugdet: {latency: 1 ms}", "bugdet: unknown key (did you mean budget?)"),
        ("budget: {latency: 15}", "budget.latency: 15 has no unit; write it like '15 ms'"),
        ("budget: {latency: 1 KiB}", "not a quantity of time"),
        ("budget: {}\nsearch: {use: gided}", "did you mean guided"),
        ("budget: {}\nsearch: {trials: 0}", "search.trials: Input should be greater than or equal to 1"),
        ("budget: {}\nbudget: {}", "key 'budget' stands twice"),
    ],
)
def test_a_mistake_in_run_yaml_names_file_key_and_remedy(cli: Any, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"schema: 1\ndevice: host\nspace: {{use: mbconv-micro}}\ndata: {{use: mnist-5k}}\n{line}\n")
    done = cli("search", path, "--out", tmp_path / "run")
    assert done.code == EXIT_USAGE
    assert str(path) in done.err
    assert message in done.err
    assert not (tmp_path / "run").exists()


def test_a_bug_is_exit_70_with_a_traceback(cli: Any) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("an error that nobody foresaw")

    registry.spaces.register("broken", broken)
    try:
        done = cli("profile", "host", "--space", "broken")
    finally:
        registry.spaces.unregister("broken")
    assert done.code == EXIT_BUG
    assert "Traceback" in done.err
    assert "an error that nobody foresaw" in done.err
    assert "please report it" in done.err


def test_an_operator_that_is_not_supported_is_exit_4(cli: Any, tmp_path: Path) -> None:
    network = small_network()
    node = network.graph.node[0]
    node.op_type, node.domain = "Frobnicate", "com.example"
    network.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(network, str(tmp_path / "odd.onnx"))
    done = cli("profile", "host", "--onnx", tmp_path / "odd.onnx", "--toolchain", "ort", "--table", tmp_path)
    assert done.code == EXIT_BUILD
    assert "Frobnicate" in done.err


# -- profile


def test_a_dry_run_says_what_it_would_do_and_does_not(cli: Any, network: Path, tmp_path: Path) -> None:
    done = cli("profile", "host", "--onnx", network, "--table", tmp_path / "t", "--dry-run")
    assert done.code == 0
    assert done.out.count("subjects to measure") == 2  # one line a toolchain
    assert not (tmp_path / "t").exists()


def test_profile_events_as_json_then_resume_has_nothing_to_do(
    cli: Any, network: Path, steady: Path, tmp_path: Path
) -> None:
    command = ("profile", steady, "--onnx", network, "--toolchain", "ort", "--table", tmp_path, "--json")
    events = [json.loads(line) for line in cli(*command).out.splitlines()]
    assert {e["event"] for e in events} == {"opened", "measured", "checked", "finished"}
    rows = [e for e in events if e["event"] == "measured"]
    assert all(e["metric"] == "latency" and e["value"] > 0 for e in rows)
    assert rows[-1]["left"] == 0
    assert events[-1] == {**events[-1], "reason": "done", "rows": len(rows), "failures": 0}
    again = [json.loads(line) for line in cli(*command, "--resume").out.splitlines()]
    assert [(e["event"], e.get("rows")) for e in again] == [("finished", 0)]
    more = [json.loads(line) for line in cli(*command).out.splitlines()]  # without --resume, all again
    assert len([e for e in more if e["event"] == "measured"]) == len(rows)


def test_profile_stops_when_its_time_is_over(cli: Any, network: Path, tmp_path: Path) -> None:
    command = ("profile", "host", "--onnx", network, "--toolchain", "ort", "--table", tmp_path, "--for", "1 us")
    assert json.loads(cli(*command, "--json").out.splitlines()[-1])["reason"] == "time"
    assert "rows this time" in cli(*command).out


# -- tables


def test_a_table_is_shown_and_checked(cli: Any, table: Path) -> None:
    shown = cli("table", "show", table)
    assert "network small" in shown.out
    document = json.loads(cli("table", "show", table, "--json").out)
    assert document["recipe"]["toolchain"] == "ort"
    assert document["counts"]["networks"] == 1
    checked = cli("table", "check", table)
    assert (checked.code, checked.out[:2]) == (0, "ok")


def test_kernels_without_a_rule_are_counted_and_named(cli: Any, table: Path, tmp_path: Path) -> None:
    slow, found = tmp_path / "slow.jsonl", LatencyTable.read(table)
    row = next(m for m in found.measurements.values() if isinstance(m.result, Samples))
    names = tuple(f"lrn{i}: no [rule]" for i in range(21))
    found.add(replace(row, result=replace(row.result, uncovered=names), taken="later"))
    found.write(slow)
    for command in ("show", "check"):
        done = cli("table", command, slow)
        assert "kernels without a schedule rule, which run slower than they could: 21" in done.err
        assert "lrn0: no [rule] (in 1)" in done.err
        assert "and 1 more" in done.err
        assert "without a schedule rule" not in cli("table", command, table).err
    assert json.loads(cli("table", "show", slow, "--json").out)["uncovered"]["lrn0: no [rule]"] == 1


def test_a_bad_table_is_exit_1_and_named(cli: Any, table: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(table.read_text().replace('"latency_s":[', '"latency_s":[9.0,'))
    done = cli("table", "check", table, bad)
    assert done.code == EXIT_NO
    assert "hashes to" in done.err
    assert "ok" in done.out


def test_a_torn_tail_is_noted_and_costs_nothing(cli: Any, table: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(table.read_bytes() + b'{"kind":"measu')
    done = cli("table", "check", torn)
    assert done.code == 0
    assert "torn bytes" in done.err


def test_tables_merge_by_union_and_differ_by_nothing(cli: Any, table: Path, tmp_path: Path) -> None:
    merged = tmp_path / "m.jsonl"
    assert cli("table", "merge", table, table, "-o", merged).code == 0
    assert LatencyTable.read(merged).values() == LatencyTable.read(table).values()
    found = json.loads(cli("table", "diff", table, merged, "--json").out)
    assert (found["only_a"], found["only_b"]) == (0, 0)
    assert found["ratio_quantiles"]["0.5"] == 1.0
    assert "median 1" in cli("table", "diff", table, merged).out


def test_tables_of_two_recipes_do_not_merge(cli: Any, table: Path, tmp_path: Path) -> None:
    other = LatencyTable(replace(LatencyTable.read(table).recipe, machine="another"))
    other.write(tmp_path / "o.jsonl")
    done = cli("table", "merge", table, tmp_path / "o.jsonl", "-o", tmp_path / "m.jsonl")
    assert done.code == EXIT_USAGE
    assert "machine" in done.err
    assert not (tmp_path / "m.jsonl").exists()


def test_export_to_parquet(cli: Any, table: Path, tmp_path: Path) -> None:
    assert cli("table", "export", table, "--parquet", tmp_path / "t.parquet").code == 0
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert len(frame) == len(LatencyTable.read(table).measurements)


def test_import_says_what_a_file_holds(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("candidate,latency_ms\na,1\nb,\n")
    assert "latency: 1 measured, 1 not measurable" in cli("table", "import", "csv", tmp_path / "m.csv").out


# -- fit and estimate


def test_a_network_is_estimated_from_its_table(cli: Any, network: Path, tables: Path, table: Path) -> None:
    done = cli("estimate", network, "--device", "host", "--table", tables, "--json")
    found = json.loads(done.out)
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["fidelity"] == "hardware"
    assert {w["source"] for w in found["workloads"]} == {"table"}
    measured = LatencyTable.read(table)
    label = next(iter(measured.networks.values())).id
    assert found["mean"] == pytest.approx(measured.values()[label], rel=1e-6)  # one network: one factor fits it
    assert "heaviest workloads" in cli("estimate", network, "--device", "host", "--table", tables).out


def test_fit_a_table_then_estimate_with_it(cli: Any, network: Path, table: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    done = cli("fit", table, "-o", path)
    assert "too few whole networks" in done.out
    found = json.loads(cli("estimate", network, "--device", "host", "--predictor", path, "--json").out)
    assert found["mean"] > 0
    refused = cli("estimate", network, "--device", "host", "--predictor", path, "--toolchain", "tvm")
    assert refused.code == EXIT_USAGE
    assert "of toolchain 'ort', not 'tvm'" in refused.err


@pytest.mark.parametrize(
    ("metric", "message"), [("latncy", "did you mean latency?"), ("energy", "holds no valid row with energy")]
)
def test_a_metric_that_the_table_does_not_hold(
    cli: Any, table: Path, tmp_path: Path, metric: str, message: str
) -> None:
    done = cli("fit", table, "--metric", metric, "-o", tmp_path / "p.json")
    assert done.code == EXIT_USAGE
    assert message in done.err
    assert not (tmp_path / "p.json").exists()


def test_estimating_without_a_table_says_how_to_get_one(cli: Any, network: Path, tmp_path: Path) -> None:
    done = cli("estimate", network, "--device", "host", "--table", tmp_path)
    assert done.code == EXIT_USAGE
    assert "run: hwnas profile host" in done.err


def test_what_is_no_predictor_is_refused(cli: Any, network: Path, tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"kind": "network-predictor"}'):
        (tmp_path / "p.json").write_text(text)
        done = cli("estimate", network, "--device", "host", "--predictor", tmp_path / "p.json")
        assert done.code == EXIT_USAGE, text
        assert "is not a saved" in done.err


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """80 published latencies to fit to, and 40 others."""
    frame = pandas.read_csv(shared_data / "nb201_hw_cifar10.csv").sample(120, random_state=0)
    rows = pandas.DataFrame({"candidate": frame["net"], "latency_ms": frame["raspi4_latency"]})
    folder = tmp_path_factory.mktemp("published")
    rows[:80].to_csv(folder / "fit.csv", index=False)
    rows[80:].to_csv(folder / "new.csv", index=False)
    return folder / "fit.csv", folder / "new.csv"


def test_fit_published_measurements_then_estimate_others(
    cli: Any, published: tuple[Path, Path], tmp_path: Path
) -> None:
    known, new = published
    predictor, out = tmp_path / "p.json", tmp_path / "pred.csv"
    done = cli("fit", "--measurements", known, "--space", "cell", "-o", predictor)
    assert done.code == 0, done.err
    assert "80 measured candidates of cell" in done.out
    done = cli("estimate", "--space", "cell", "--candidates", new, "--predictor", predictor, "--out", out)
    assert done.code == 0, done.err
    found, truth = pandas.read_csv(out), pandas.read_csv(new)
    assert list(found.columns) == ["candidate", "mean", "low", "high"]
    assert list(found["candidate"]) == list(truth["candidate"])
    assert (found["low"] <= found["mean"]).all()
    assert (found["mean"] <= found["high"]).all()
    assert found["mean"].corr(truth["latency_ms"] / 1e3, method="spearman") > 0.9
    printed = cli("estimate", "--space", "cell", "--candidates", new, "--predictor", predictor).out
    assert printed == out.read_text()


def test_a_predictor_of_candidates_knows_nothing_else(
    cli: Any, published: tuple[Path, Path], network: Path, tmp_path: Path
) -> None:
    known, new = published
    predictor = tmp_path / "p.json"
    assert cli("fit", "--measurements", known, "--space", "cell", "-o", predictor).code == 0
    assert "knows candidates of its space only" in (
        cli("estimate", network, "--device", "host", "--predictor", predictor).err
    )
    done = cli("estimate", "--space", "cell", "--set", "channels=8", "--candidates", new, "--predictor", predictor)
    assert done.code == EXIT_USAGE
    assert "was fitted on space" in done.err


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("candidate,latency_ms\n|none~0|,1\n", [], "none~0"),
        ("candidate,latency_ms\n", [], "holds no candidates"),
        ('candidate,latency_ms\n"(0, 1, 2, 3, 4, 0)",1\n', [], "at least 5 measured"),
        ("candidate,latency_ms\na,1\n", ["--metric", "latensy"], "did you mean latency"),
    ],
)
def test_measurements_that_cannot_be_fitted(
    cli: Any, tmp_path: Path, text: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "m.csv").write_text(text)
    done = cli("fit", "--measurements", tmp_path / "m.csv", "--space", "cell", "-o", tmp_path / "p.json", *arguments)
    assert done.code == EXIT_USAGE
    assert message in done.err
    assert "--measurements needs --space" in cli("fit", "--measurements", tmp_path / "m.csv").err


def test_proxies_are_scored_without_training(cli: Any, tmp_path: Path) -> None:
    candidates = tmp_path / "c.csv"
    space, rng = registry.spaces.load("mbconv-micro")(), np.random.default_rng(0)
    texts = [space.encode(space.sample(rng)) for _ in range(2)]
    pandas.DataFrame({"candidate": texts}).to_csv(candidates, index=False)
    done = cli("proxies", "--space", "mbconv-micro", "--candidates", candidates, "--data", "mnist-5k", "--names",
               "params,macs,synflow", "--out", tmp_path / "f.csv")  # fmt: skip
    assert done.code == 0, done.err
    found = pandas.read_csv(tmp_path / "f.csv")
    assert list(found.columns) == ["candidate", "params", "macs", "synflow"]
    assert list(found["candidate"]) == texts
    (tmp_path / "bad.csv").write_text("net\nx\n")
    for arguments, message in (
        (("--candidates", tmp_path / "bad.csv", "--data", "mnist-5k"), "needs a column 'candidate'"),
        (("--candidates", candidates, "--data", "mnist5k"), "did you mean mnist-5k"),
        (("--candidates", candidates, "--data", "mnist-5k", "--names", "paramz"), "did you mean params"),
        (("--candidates", candidates, "--data", "digits"), "digits"),
    ):
        done = cli("proxies", "--space", "mbconv-micro", *arguments)
        assert done.code == EXIT_USAGE, message
        assert message in done.err


def test_doctor_finds_what_is_needed(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {r["check"]: r for r in json.loads(cli("doctor", "--json").out)}
    assert rows["torch"]["state"] == "ok"
    assert rows["tvm"]["state"] == "ok"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    done = cli("doctor")
    assert done.code == EXIT_NO
    assert "apt-get install g++" in done.out
