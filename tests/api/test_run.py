"""A whole run, from run.yaml to a bundle that keeps its promise; and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.api.bundles import check_bundle, export_candidate
from hwnas.api.recheck import verify_run
from hwnas.api.run import Run
from hwnas.api.settings import RunSettings
from hwnas.config import validate
from hwnas.deploy.bundle import FP32, MANIFEST, SAMPLE, TEST, read_manifest
from hwnas.digest import digest_bytes
from hwnas.errors import EXIT_NO, EXIT_USAGE, ConfigError, DataError
from hwnas.graph.load import load_onnx
from hwnas.report.record import RunRecord
from tests.api import small_run
from tests.api.small_run import ENVIRONMENT, hwnas


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be spoiled."""
    return Path(shutil.copytree(finished / "bundle", tmp_path / "bundle"))


def test_a_run_leaves_its_outcome(finished: Path) -> None:
    for name in ("run.json", "start.json", "predictor.json", "search-1.jsonl", "accuracy.jsonl", "record.json",
                 "finalists.json", "verdicts-1.json", "report.html", "bundle/manifest.json"):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    record = RunRecord.read(finished / "record.json")
    assert record.winner is not None
    assert record.winner.meets_budget
    assert len(record.finalists) == 2
    assert len(record.winner.readings["latency"]) >= 5
    assert record.predictor is not None
    assert record.predictor.networks == 10
    assert len([t for t in record.trials if t.accuracy is not None]) == 6
    assert record.settings["verify"]["rounds"] == 3  # defaults are filled in
    assert record.winner.encoded in (finished / "report.html").read_text()
    best = max(record.finalists, key=lambda f: np.mean(f.val_accuracies))
    assert best.winner


def test_the_bundle_says_what_was_promised_and_measured(finished: Path) -> None:
    manifest = read_manifest(finished / "bundle")
    record = RunRecord.read(finished / "record.json")
    promise = manifest.promise
    assert record.winner is not None
    assert promise.candidate == record.winner.encoded
    assert promise.readings == record.winner.readings["latency"]
    assert promise.high <= promise.budget["latency"]
    assert manifest.left_out == {}
    assert manifest.test_samples == 359
    assert manifest.accuracy["fp32"] == pytest.approx(promise.test_accuracy, abs=1.01 / 359)
    assert set(manifest.files) == {
        "network.onnx", "network-int8.onnx", "sample.npz", "test.npz", "run_onnx.py", "run_tvm.py", "tvm/network.so",
        "tvm/inputs.json", "tvm/artifact.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("script", "form"),
    [(["run_onnx.py"], "fp32"), (["run_onnx.py", "network-int8.onnx"], "int8"), (["run_tvm.py"], "fp32")],
    ids=str,
)
def test_its_scripts_reproduce_the_accuracy_without_hwnas(bundle: Path, script: list[str], form: str) -> None:
    code = (
        "import sys, runpy; sys.modules['hwnas'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, *script], cwd=bundle, capture_output=True, text=True,
                          env=ENVIRONMENT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    expected = read_manifest(bundle).accuracy[form]  # type: ignore[index]
    assert float(told["test accuracy"]) == pytest.approx(expected, abs=1.01 / 359)
    if form == "fp32":
        assert float(told["largest difference from the expected output"]) < 1e-3


def test_a_bundle_keeps_its_promise(bundle: Path) -> None:
    checks = {c.name: c for c in check_bundle(bundle, spacing_s=0)}
    assert set(checks) == {
        "files", "output", "outputs on the device", "test accuracy", "latency", "budget", "output of the TVM library", "int8 test accuracy",
    }  # fmt: skip
    assert all(c.kept for c in checks.values()), checks


def test_verify_is_exit_0_for_bundle_and_run_and_tells_as_json(finished: Path) -> None:
    done = hwnas("verify", finished / "bundle", "--json")
    assert done.returncode == 0, done.stdout
    assert all(c["kept"] for c in json.loads(done.stdout))
    done = hwnas("verify", finished, "--tolerance", "1000 %")
    assert done.returncode == 0, done.stdout
    assert "winner" in done.stdout


def test_a_run_is_measured_again_finalist_by_finalist(finished: Path) -> None:
    assert len(verify_run(finished, tolerance=100.0)) == 2
    (best,) = verify_run(finished, top=1, tolerance=100.0)
    assert best.kept
    assert best.name.startswith("winner ")
    (strict,) = verify_run(finished, top=1, tolerance=0.0)
    assert not strict.kept


def spoil(bundle: Path, change: Any) -> None:
    document = json.loads((bundle / MANIFEST).read_text())
    change(document)
    (bundle / MANIFEST).write_text(json.dumps(document))


def rewrite(bundle: Path, name: str, data: bytes) -> None:
    """Change a file and its digest: a forger who knows the format."""
    (bundle / name).write_bytes(data)
    spoil(bundle, lambda d: d["files"][name].update(digest=digest_bytes(data)))


def test_a_changed_file_is_named(bundle: Path) -> None:
    data = bytearray((bundle / FP32).read_bytes())
    data[-1] ^= 1
    (bundle / FP32).write_bytes(data)
    with pytest.raises(DataError, match=r"network.onnx: was changed since the bundle was written"):
        check_bundle(bundle)
    done = hwnas("verify", bundle)
    assert done.returncode == EXIT_USAGE
    assert "was changed" in done.stderr


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "tvm" / "network.so").unlink()
    with pytest.raises(DataError, match=r"network.so: is missing from the bundle"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "tvm/../../escape"])
def test_a_manifest_cannot_name_files_outside(bundle: Path, name: str) -> None:
    (bundle.parent / "escape").write_text("x")
    spoil(bundle, lambda d: d["files"].update({name: {"bytes": 1, "digest": digest_bytes(b"x")}}))
    with pytest.raises(DataError, match="names a file outside its folder"):
        read_manifest(bundle)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    (bundle / FP32).rename(outside)
    (bundle / FP32).symlink_to(outside)
    with pytest.raises(DataError, match="names a file outside its folder"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("promise"),
        lambda d: d.update(files=[]),
        lambda d: d["files"].update({FP32: "x"}),
        lambda d: d["files"].pop(FP32),
        lambda d: d["accuracy"].update(fp32=7),
        lambda d: d["promise"].update(confidence="high"),
        lambda d: d["promise"].update(budget={"speed": 1}),
        lambda d: d.update(colour="red"),
        lambda d: d.clear(),
    ],
    ids=range(9),
)
def test_what_is_no_manifest_is_refused(bundle: Path, change: Any) -> None:
    spoil(bundle, change)
    with pytest.raises(DataError, match=r"is not a bundle's manifest|does not list"):
        read_manifest(bundle)


def test_a_manifest_that_is_not_json_is_refused(bundle: Path) -> None:
    for text in ("", "[1]", "[" * 100_000, "nonsense"):
        (bundle / MANIFEST).write_text(text)
        with pytest.raises(DataError, match="is not a bundle's manifest"):
            read_manifest(bundle)


def test_arrays_that_are_not_there_or_would_run_code_are_refused(bundle: Path) -> None:
    rewrite(bundle, TEST, b"not a zip file")
    with pytest.raises(DataError, match=r"test.npz: does not hold the arrays x, y"):
        check_bundle(bundle)
    np.savez(bundle / "evil.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    rewrite(bundle, TEST, (bundle / "evil.npz").read_bytes())
    with pytest.raises(DataError, match="does not hold the arrays"):
        check_bundle(bundle)


def test_a_promise_that_is_not_kept_is_exit_1(bundle: Path) -> None:
    def exaggerate(document: dict[str, Any]) -> None:
        document["accuracy"]["fp32"] = 1.0
        document["promise"]["budget"] = {"latency": 1e-9}

    spoil(bundle, exaggerate)
    with np.load(bundle / SAMPLE) as sample:
        arrays = {"input": sample["input"], "output": sample["output"] + 1}
    np.savez(bundle / "wrong.npz", **arrays)
    rewrite(bundle, SAMPLE, (bundle / "wrong.npz").read_bytes())
    done = hwnas("verify", bundle, "--json")
    assert done.returncode == EXIT_NO
    broken = {c["name"] for c in json.loads(done.stdout) if not c["kept"]}
    assert broken == {"output", "test accuracy", "budget", "output of the TVM library"}


def test_a_finalist_is_exported_by_id_or_text(finished: Path, tmp_path: Path) -> None:
    entry = json.loads((finished / "finalists.json").read_text())[0]
    done = hwnas("export", finished, "--candidate", entry["id"][:8], "--format", "onnx", "--format", "tvm",
                 "-o", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        "network.onnx", "network.so", "inputs.json", "artifact.json",
    }  # fmt: skip
    exported = load_onnx(tmp_path / "out" / "network.onnx")
    assert exported == load_onnx(finished / "finalists" / f"{entry['id']}.onnx")
    assert export_candidate(finished, entry["encoded"], ["onnx"], tmp_path / "again")
    for name in ("", "nonsense"):
        with pytest.raises(ConfigError, match=r"names [02] finalists; there are"):
            export_candidate(finished, name, ["onnx"], tmp_path)


def test_the_report_is_written_again_from_the_record(finished: Path, tmp_path: Path) -> None:
    done = hwnas("report", finished, "-o", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").read_text() == (finished / "report.html").read_text()
    record = json.loads(hwnas("report", finished, "--json").stdout)
    assert record["device"] == "host"


def test_a_finished_run_resumes_to_the_same_winner(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {name: (copy / name).read_bytes() for name in (
        "search-1.jsonl", "accuracy.jsonl", "verdicts-1.json", "bundle/manifest.json")}  # fmt: skip
    done = hwnas("search", finished.parent / "run.yaml", "--out", copy, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    again, first = RunRecord.read(copy / "record.json"), RunRecord.read(finished / "record.json")
    assert again.finalists == first.finalists
    assert again.trials == first.trials
    assert {name: (copy / name).read_bytes() for name in before} == before  # nothing trained or measured anew


def test_a_folder_that_holds_a_run_is_not_overwritten(finished: Path) -> None:
    done = hwnas("search", finished.parent / "run.yaml", "--out", finished)
    assert done.returncode == EXIT_USAGE
    assert "add --resume" in done.stderr


def test_other_settings_in_the_same_folder_are_refused(finished: Path, tmp_path: Path) -> None:
    device = str(finished.parent / "host.yaml")
    path = small_run.write(tmp_path, device=device, budget={"latency": "40 ms"}, data={"use": "digits", "seed": 1})
    done = hwnas("search", path, "--out", finished, "--resume")
    assert done.returncode == EXIT_USAGE
    assert "other settings (budget, data)" in done.stderr
    assert "run.json" in {p.name for p in finished.iterdir()}


def test_a_dry_run_shows_every_default_and_starts_nothing(tmp_path: Path) -> None:
    done = hwnas("search", small_run.write(tmp_path), "--out", tmp_path / "run", "--dry-run", "--seed", "7")
    resolved = json.loads(done.stdout)
    assert resolved["search"]["seed"] == 7
    assert resolved["accuracy"]["plan"]["batch"] == 64
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"use": "mnist-5k"}}, "data set 'mnist-5k' has inputs .*28, 28.* the space makes networks for"),
        ({"data": {"use": "mnist5k"}}, "did you mean mnist-5k"),
        ({"data": {"use": "npz", "path": "none.npz"}}, "none.npz"),
        ({"data": {"use": "digits", "sede": 1}}, "did you mean seed"),
        ({"space": {"use": "mbconv", "resolutoin": 8}}, "did you mean resolution"),
        ({"space": {"use": "mbcov"}}, "did you mean mbconv"),
        ({"toolchain": "otr"}, "did you mean ort"),
        ({"device": "hosst"}, "did you mean host"),
        ({"budget": {"energy": "1 J"}}, "energy: nothing measures energy on host; it tells latency"),
        ({"objectives": [{"minimize": "cycles"}]}, "nothing measures cycles on host"),
    ],
    ids=lambda v: json.dumps(v) if isinstance(v, dict) else "",
)
def test_settings_that_could_only_fail_later_fail_now_and_claim_no_folder(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    chosen = validate(RunSettings, small_run.settings(**changes))
    with pytest.raises(ConfigError, match=message):
        Run(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_run_cannot_be_reopened(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        Run.reopen(tmp_path)
    assert Run.reopen(finished).settings.accuracy.queries == 6


def test_an_impossible_budget_is_exit_1_and_names_the_closest(finished: Path, tmp_path: Path) -> None:
    path = small_run.write(tmp_path, budget={"latency": "1 ns"})
    done = hwnas("search", path, "--out", tmp_path / "run", "--table", finished / "tables")
    assert done.returncode == EXIT_NO, done.stderr
    assert "no candidate meets the budget; the closest is s8k3" in done.stderr
    assert "over latency by " in done.stderr
    assert not (tmp_path / "run" / "bundle").exists()
