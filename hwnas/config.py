"""Reading YAML from people: safe loading, strict models, and errors that name file, key and the nearest allowed key."""

from __future__ import annotations

import os
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hwnas import registry
from hwnas.core.device import Device
from hwnas.core.lab import Lab
from hwnas.errors import ConfigError, nearest

M = TypeVar("M", bound=BaseModel)
MAX_YAML_BYTES = 1_000_000


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, where the second would silently win, and without aliases.

    A few hundred bytes of nested aliases stand for billions of values as soon as anything walks them.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed; write the value out", mark)
        return super().compose_node(parent, index)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    found = loader.construct_mapping(node, deep=True)
    if len(found) < len(node.value):
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        double = next(key for key, count in Counter(keys).items() if count > 1)
        raise yaml.constructor.ConstructorError(None, None, f"key {double!r} stands twice", node.start_mark)
    return found


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it is missing, too large, not YAML or not a mapping."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"larger than {MAX_YAML_BYTES} bytes; this is not a configuration", path=path)
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or no such date or number
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", path=path) from error
    if not isinstance(document, dict) or not all(isinstance(k, str) for k in document):
        raise ConfigError("must be a mapping of names to values", path=path)
    return document


def validate(kind: type[M], document: dict[str, Any], path: Path | str | None = None) -> M:
    """Check a mapping against a model. Raises ConfigError that names the key and, for an unknown one, the nearest."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _explain(kind, error, path) from error


def _explain(kind: type[BaseModel], error: ValidationError, path: Path | str | None) -> ConfigError:
    faults = error.errors(include_url=False)
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])  # a typo explains what is missing
    key = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(kind, first["loc"][:-1])
        close = nearest(str(first["loc"][-1]), allowed)
        hint = f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(sorted(allowed))}"
        return ConfigError(f"unknown key ({hint})", path=path, key=key)
    if first["type"] == "missing":
        return ConfigError("is required", path=path, key=key)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigError(message + more, path=path, key=key, given=first.get("input"))


def _fields_at(kind: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place in a model, following nested models by field name."""
    current: Any = kind
    for part in where:
        field = getattr(current, "model_fields", {}).get(part)
        nested = _nested_models(field.annotation) if field is not None else []
        if nested:
            current = nested[0]
    return [f.alias or name for name, f in getattr(current, "model_fields", {}).items()]


def _nested_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _nested_models(a)]


def data_folder(name: str) -> Path:
    """A folder of shipped data (`devices` or `latency_tables`): in the wheel, or beside the package in a checkout."""
    shipped = Path(str(files("hwnas"))) / "data" / name
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[1] / name


def cache_folder() -> Path:
    """Where hwnas keeps what it can make again: HWNAS_CACHE, else `hwnas` in the user's cache folder."""
    if named := os.environ.get("HWNAS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwnas"


def device_files() -> dict[str, Path]:
    """Name -> file of every device description: the shipped ones, then those in HWNAS_DEVICES."""
    folders = [data_folder("devices"), *map(Path, filter(None, os.environ.get("HWNAS_DEVICES", "").split(os.pathsep)))]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_device(name: str | Path) -> Device:
    """A device by name, or from a YAML file. Raises ConfigError, with the nearest names for an unknown one."""
    if isinstance(name, Path) or str(name).endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        known = device_files()
        if name not in known:
            raise ConfigError(f"no device {name!r}", given=name, allowed=known)
        path = known[name]
    device = validate(Device, read_yaml(path), path)
    if device.name != path.stem:
        raise ConfigError(f"is {device.name!r} but the file is {path.name!r}", path=path, key="name")
    return device


def lab_file() -> Path:
    """Where the lab file is: HWNAS_LAB, else lab.yaml in the user's configuration folder."""
    if named := os.environ.get("HWNAS_LAB"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "hwnas" / "lab.yaml"


def load_lab() -> Lab:
    """The lab as its file says; an empty one where there is no file, or nothing in it.

    Raises ConfigError, also where HWNAS_LAB names a file that is missing, and for boards and meters of no known kind.
    """
    path = lab_file()
    if not path.exists():
        if "HWNAS_LAB" in os.environ:
            raise ConfigError("is missing, and HWNAS_LAB names it", path=path)
        return Lab()
    if not any(line.strip() and not line.lstrip().startswith("#") for line in path.read_text().splitlines()):
        return Lab()
    lab = validate(Lab, read_yaml(path), path)
    _check_lab(lab, path)
    return lab


def unknown_devices(lab: Lab) -> list[str]:
    """Devices that a lab names and no file in `devices/` or HWNAS_DEVICES describes."""
    named = {*(b.device for b in lab.boards), *(r.device for r in lab.rpc), *lab.emulated}
    return sorted(named - device_files().keys())


def _check_lab(lab: Lab, path: Path) -> None:
    known = device_files()
    plugged = [("boards", b.device) for b in lab.boards] + [("rpc", r.device) for r in lab.rpc]
    for key, name in (*plugged, *(("emulated", n) for n in lab.emulated)):
        if name not in known:  # described by a file that is named when it is used; `unknown_devices` tells
            continue
        device = load_device(name)
        emulated = device.emulator is not None or (device.rpc is not None and device.rpc.emulated is not None)
        if (key == "emulated") != emulated:
            what = "is emulated; say how many under emulated:" if emulated else "is not emulated"
            raise ConfigError(f"{name} {what}", path=path, key=key)
        if not emulated and (device.rpc is not None) != (key == "rpc"):
            raise ConfigError(f"{name} belongs under {'rpc' if device.rpc else 'boards'}:", path=path, key=key)
    for meter in lab.meters:
        if meter.use not in registry.meters.names():
            kinds = registry.meters.names()
            raise ConfigError(
                "no such meter", path=path, key=f"meters.{meter.name}.use", given=meter.use, allowed=kinds
            )
