"""Names to implementations, one registry for each extension point.

In-tree parts register the module that holds them, so listing names imports nothing heavy; out-of-tree parts come
through the entry-point group `hwnas.<point>`. A name twice, or one nobody knows, is an error.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from hwnas.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """The implementations of one extension point, by name; values are loaded on first use."""

    def __init__(self, point: str) -> None:
        self.point = point
        self._where: dict[str, str] = {}
        self._loaded: dict[str, T] = {}
        self._outside: dict[str, str] = {}
        self._scanned = False

    def declare(self, name: str, where: str) -> None:
        """Name an implementation by 'module:attribute' without importing it. Raises ConfigError on a second use."""
        if name in self._where or name in self._loaded:
            raise ConfigError(f"{self.point} {name!r} is registered twice")
        self._where[name] = where

    def register(self, name: str, value: T) -> T:
        """Register a loaded implementation, e.g. from a test or a notebook. Raises ConfigError on a second use."""
        self._scan()
        if name in self._where or name in self._loaded:
            raise ConfigError(f"{self.point} {name!r} is registered twice")
        self._loaded[name] = value
        return value

    def unregister(self, name: str) -> None:
        """Forget an implementation that `register` added."""
        self._loaded.pop(name, None)

    def names(self) -> list[str]:
        """Every known name, sorted; imports no implementation."""
        self._scan()
        return sorted({*self._where, *self._loaded})

    def load(self, name: str) -> T:
        """The implementation of that name. Raises ConfigError with the nearest names if there is none."""
        self._scan()
        if name not in self._loaded:
            if name not in self._where:
                raise ConfigError(f"no {self.point} {name!r}", given=name, allowed=self.names())
            module, _, attribute = self._where[name].partition(":")
            try:
                self._loaded[name] = cast(T, getattr(import_module(module), attribute))
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"{self.point} {name!r} ({self._where[name]}) cannot be loaded: {error}") from error
        return self._loaded[name]

    def _scan(self) -> None:
        if self._scanned:
            return
        for entry in entry_points(group=f"hwnas.{self.point}"):
            if self._outside.get(entry.name) != entry.value:  # a path that stands twice on sys.path is no clash
                self.declare(entry.name, entry.value)
                self._outside[entry.name] = entry.value
        self._scanned = True


toolchains: Registry[Any] = Registry("toolchain")
runners: Registry[Any] = Registry("runner")
meters: Registry[Any] = Registry("meter")
spaces: Registry[Any] = Registry("space")
proxies: Registry[Any] = Registry("proxy")
strategies: Registry[Any] = Registry("strategy")
datasets: Registry[Any] = Registry("dataset")
exporters: Registry[Any] = Registry("exporter")
accuracies: Registry[Any] = Registry("accuracy")

toolchains.declare("ort", "hwnas.toolchains.ort:OrtToolchain")
toolchains.declare("tvm", "hwnas.toolchains.tvm:TvmToolchain")
toolchains.declare("tvm-cuda", "hwnas.toolchains.tvm_cuda:TvmCudaToolchain")
toolchains.declare("edgetpu", "hwnas.toolchains.edgetpu:EdgeTpuToolchain")
toolchains.declare("vela", "hwnas.toolchains.vela:VelaToolchain")
toolchains.declare("zigzag", "hwnas.toolchains.zigzag:ZigzagToolchain")
runners.declare("local", "hwnas.runners.local:LocalRunner")
runners.declare("tabular", "hwnas.runners.tabular:TabularRunner")
toolchains.declare("cgen", "hwnas.toolchains.cgen:CgenToolchain")
runners.declare("firmware", "hwnas.runners.firmware:FirmwareRunner")
runners.declare("tvm-rpc", "hwnas.runners.tvm_rpc:RpcRunner")
for _name, _class in (("hwmon", "HwmonMeter"), ("rapl", "RaplMeter"), ("ppk2", "Ppk2Meter"), ("lpm01a", "Lpm01aMeter"),
                      ("joulescope", "JoulescopeMeter"), ("model", "ModelMeter")):  # fmt: skip
    meters.declare(_name, f"hwnas.meters.{_name}:{_class}")
toolchains.declare("fpga", "hwnas.toolchains.fpga:FpgaToolchain")
runners.declare("verilator", "hwnas.runners.verilator:VerilatorRunner")
runners.declare("simulator", "hwnas.runners.simulator:SimulatorRunner")
runners.declare("fake", "hwnas.runners.fake:FakeRunner")
spaces.declare("cell", "hwnas.spaces.cell:CellSpace")
spaces.declare("mbconv", "hwnas.spaces.mbconv:MbconvSpace")
spaces.declare("mbconv-micro", "hwnas.spaces.mbconv:mbconv_micro")
spaces.declare("mbconv-mobile", "hwnas.spaces.mbconv:mbconv_mobile")
for _name in ("random", "evolution", "nsga2", "guided"):
    strategies.declare(_name, f"hwnas.search.strategies.{_name}:{_name.capitalize()}Strategy")
for _name in ("params", "macs", "grad_norm", "snip", "synflow", "nwot"):
    proxies.declare(_name, f"hwnas.accuracy.proxies:{_name}")
for _name in ("mnist_5k", "digits", "watch", "npz", "folder"):
    datasets.declare(_name.replace("_", "-"), f"hwnas.accuracy.datasets:{_name}")
