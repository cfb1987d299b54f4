"""YAML from people: strict, hostile until checked, and answered with the nearest key."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from hwnas import config
from hwnas.api.settings import RunSettings, load_run
from hwnas.config import read_yaml, validate
from hwnas.core.device import Device
from hwnas.errors import ConfigError
from hwnas.spaces.mbconv_settings import MbconvSettings

RUN: dict[str, Any] = {
    "schema": 1, "device": "host", "space": {"use": "mbconv-micro"}, "data": {"use": "digits"},
    "budget": {"latency": "1 ms"},
}  # fmt: skip


def written(tmp_path: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("change", "key", "hint"),
    [
        ({"devcie": "host"}, "devcie", "did you mean device"),
        ({"budget": {"latencey": "1 ms"}}, "budget.latencey", "did you mean latency"),
        ({"accuracy": {"plan": {"epoch": 2}}}, "accuracy.plan.epoch", "did you mean epochs"),
        ({"objectives": [{"maximise": "accuracy"}]}, "objectives.0.maximise", "did you mean maximize"),
        ({"search": {"trails": 3}}, "search.trails", "did you mean trials"),
        ({"zzzz": 1}, "zzzz", "allowed: .*budget"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_at_any_depth(change: dict[str, Any], key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        validate(RunSettings, {**RUN, **change}, "run.yaml")
    assert caught.value.key == key
    assert str(caught.value).startswith(f"run.yaml: {key}: unknown key")


def test_an_unknown_key_inside_a_list_of_models() -> None:
    with pytest.raises(ConfigError, match=r"stages.1.wdths: unknown key \(did you mean widths"):
        validate(MbconvSettings, {"stages": [{"widths": [8]}, {"wdths": [8]}]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"latency": 15}}, r"budget.latency: 15 has no unit; write it like '15 ms'"),
        ({"budget": {"latency": "15"}}, r"'15' has no unit"),
        ({"budget": {"latency": "15 KiB"}}, r"not a quantity of time"),
        ({"budget": {"flash": "p40 %"}}, r"not a quantity"),
        ({"budget": {"latency": "-1 ms"}}, r"not negative"),
        ({"budget": {"confidence": "140 %"}}, r"budget.confidence: .*less than 1"),
        ({"verify": {"spacing": 3}}, r"verify.spacing: 3 has no unit"),
        ({"verify": {"readings": 2}}, r"verify.readings: .*greater than or equal to 5"),
        ({"search": {"use": "gided"}}, r"search.use: .*did you mean guided"),
        ({"objectives": [{}]}, r"an objective is either"),
        ({"schema": 2}, r"schema: .*1"),
        ({"budget": {"latency": float("nan")}}, r"nan has no unit"),
        ({"accuracy": {"queries": float("inf")}}, r"accuracy.queries"),
    ],
)
def test_a_wrong_value_names_its_key_and_the_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(RunSettings, {**RUN, **change})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="device: is required"):
        validate(RunSettings, {k: v for k, v in RUN.items() if k != "device"})


def test_resolved_settings_can_be_read_again() -> None:
    resolved = validate(RunSettings, RUN)
    assert validate(RunSettings, resolved.model_dump(mode="json", by_alias=True)) == resolved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        ("x: {a: 1, a: 1}\n", "key 'a' stands twice"),
        ("- a\n- b\n", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("", "must be a mapping"),
        ("1: a\n", "must be a mapping"),
        ("a: [1, 2\n", "is not YAML"),
        ("a: &x [1]\nb: *x\n", "aliases .* are not allowed"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("a: 2026-13-45\n", "is not YAML"),
        ("a: " + "9" * 5000 + "\n", "is not YAML"),
        ("? [a]\n: b\n", "is not YAML"),
        (b"a: \xff\xfe\n", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_a_mapping_in_sound_yaml_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(written(tmp_path, text))
    assert "run.yaml" in str(caught.value)


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(written(tmp_path, "\n".join(lines)))


def test_a_file_that_is_too_large_or_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than 1000000 bytes"):
        read_yaml(written(tmp_path, "# " + "x" * config.MAX_YAML_BYTES))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.timing
def test_many_keys_are_read_in_linear_time(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"k{i}: 1\n" for i in range(50_000)))
    start = time.monotonic()
    assert len(read_yaml(path)) == 50_000
    assert time.monotonic() - start < 30


def test_a_device_file_has_to_be_named_like_its_device(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    shutil.copy(config.device_files()["host"], path)
    with pytest.raises(ConfigError, match=r"other.yaml: name: is 'host' but the file is 'other.yaml'"):
        config.load_device(path)


def test_devices_of_ones_own_come_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = config.device_files()["host"].read_text().replace("name: host", "name: my-board")
    written(tmp_path, text, "my-board.yaml")
    with pytest.raises(ConfigError, match="no device 'my-board'"):
        config.load_device("my-board")
    monkeypatch.setenv("HWNAS_DEVICES", str(tmp_path))
    device = config.load_device("my-board")
    assert isinstance(device, Device)
    assert device.digest != config.load_device("host").digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("macs_per_s: 20 G/s", "macs_per_s: 20", "compute.macs_per_s: .*write it like '2 G/s'"),
        ("fidelity: hardware", "fidelity: guess", "fidelity"),
        ("toolchains: [ort, tvm]", "toolchains: [ort]", "options name toolchain 'tvm'"),
        ("runner: local", "runner: tabular", "go together"),
        ("runner: local", "runner: local\ncolour: red", "colour: unknown key"),
        ("timeout: 20 s", "timeout: 20", "protocol.timeout: 20 has no unit"),
    ],
)
def test_a_device_file_that_is_not_sound(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = config.device_files()["host"].read_text()
    assert old in text
    with pytest.raises(ConfigError, match=message):
        config.load_device(written(tmp_path, text.replace(old, new), "host.yaml"))


def test_run_yaml_is_read_from_its_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, "schema: 1\ndevice: host\nspace: {use: cell}\ndata: {use: digits}\nbudget: {latency: p40}\n"
    )
    assert load_run(path).budget.percentiles() == {"latency": 40}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emulated: {nucleo-f446re: 2}", "nucleo-f446re is not emulated"),
        ("boards: [{name: a, device: cortex-m7-qemu, serial: /dev/ttyX}]", "cortex-m7-qemu is emulated; say how many"),
        ("boards: [{name: a, device: rpi4b, serial: /dev/ttyX}]", "rpi4b belongs under rpc:"),
        ("rpc: [{device: nucleo-f446re}]", "nucleo-f446re belongs under boards:"),
        ("meters: [{name: m, use: ppk3}]", "no such meter .*did you mean ppk2"),
        ("boards: [{name: a, device: nucleo-f446re, serial: /dev/x, meter: m}]", "no meter 'm'"),
        ("rpc: [{device: rpi4b, ssh: -oProxyCommand=x}]", "ssh"),
        ("rpc: [{device: rpi4b, boards: 2, ssh: pi@a}]", "belongs to one board"),
        ("bords: []", "did you mean boards"),
    ],
)
def test_a_lab_that_cannot_be_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab.yaml").write_text(text)
    monkeypatch.setenv("HWNAS_LAB", str(tmp_path / "lab.yaml"))
    with pytest.raises(ConfigError, match=message):
        config.load_lab()


def test_an_empty_lab_is_one_and_a_missing_one_that_is_named_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("# nothing here yet\n\n")
    monkeypatch.setenv("HWNAS_LAB", str(path))
    assert config.load_lab().boards == ()
    path.unlink()
    with pytest.raises(ConfigError, match="HWNAS_LAB names it"):
        config.load_lab()
