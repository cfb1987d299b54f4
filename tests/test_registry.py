"""Names to implementations: lazy in the tree, entry points outside of it, no name twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwnas import registry
from hwnas.errors import ConfigError
from hwnas.registry import Registry

POINTS = ("toolchains", "runners", "meters", "spaces", "proxies", "strategies", "datasets", "exporters", "accuracies")


def plugin(folder: Path, *names: str, point: str = "space") -> Path:
    """A distribution with one entry point a name, as pip would leave it on sys.path."""
    (folder / "my_plugin.py").write_text("class MySpace:\n    name = 'my-space'\n")
    info = folder / "my_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    lines = "".join(f"{name} = my_plugin:MySpace\n" for name in names)
    (info / "entry_points.txt").write_text(f"[hwnas.{point}]\n{lines}")
    return folder


def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin(tmp_path, "my-space")))
    found: Registry[type] = Registry("space")
    assert found.names() == ["my-space"]
    assert "my_plugin" not in sys.modules  # listing imports nothing
    assert found.load("my-space").__name__ == "MySpace"
    sys.modules.pop("my_plugin")


def test_a_plug_in_cannot_take_a_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin(tmp_path, "cell")))
    found: Registry[type] = Registry("space")
    found.declare("cell", "hwnas.spaces.cell:CellSpace")
    with pytest.raises(ConfigError, match="space 'cell' is registered twice"):
        found.names()
    with pytest.raises(ConfigError, match="space 'cell' is registered twice"):
        found.load("cell")  # not only the first time


def test_a_name_is_registered_once() -> None:
    found: Registry[int] = Registry("meter")
    found.register("one", 1)
    for again in (lambda: found.register("one", 2), lambda: found.declare("one", "a:b")):
        with pytest.raises(ConfigError, match="registered twice"):
            again()
    found.unregister("one")
    assert found.register("one", 3) == 3


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no space 'mbconv-mirco' \(did you mean mbconv-micro"):
        registry.spaces.load("mbconv-mirco")
    with pytest.raises(ConfigError, match="no meter 'any'"):
        Registry("meter").load("any")


def test_a_plug_in_that_cannot_be_imported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plugin(tmp_path, "my-space")
    (folder / "my_plugin.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(ConfigError, match=r"space 'my-space' \(my_plugin:MySpace\) cannot be loaded: .*nobody_has"):
        Registry("space").load("my-space")


@pytest.mark.parametrize("point", POINTS)
def test_every_registered_name_loads(point: str) -> None:
    found: Registry[object] = getattr(registry, point)
    for name in found.names():
        assert found.load(name) is not None


def test_listing_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hwnas import registry; "
        f"[getattr(registry, p).names() for p in {POINTS!r}]; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'tvm', 'xgboost', 'onnx', 'numpy'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
