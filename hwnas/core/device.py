"""Devices as data: one YAML for a kind of board, every number with its source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwnas.core.accelerator import Accelerator
from hwnas.core.estimate import Bandwidth, Bytes, Frequency, Rate, Ratio, Seconds
from hwnas.core.measurement import Fidelity, RunMetric, Samples
from hwnas.digest import content_id
from hwnas.errors import ConfigError

_STRICT = ConfigDict(extra="forbid", frozen=True)
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Source = Annotated[str, Field(min_length=3, description="datasheet, public benchmark, calibrated on what, or chosen")]


class Compute(BaseModel):
    """What computes: `cores: 0` means 'as many as this machine has'."""

    model_config = _STRICT
    cores: int = Field(ge=0, le=4096)
    isa: str
    macs_per_s: Rate
    overhead: Seconds = Field(description="time that a kernel takes however small it is")
    instructions_per_s: Rate | None = Field(default=None, description="turns the roofline into counts, where emulated")
    source: Source


class Memory(BaseModel):
    """One memory: what it holds, its size (None: whatever the machine has) and its bandwidth."""

    model_config = _STRICT
    use: Literal["ram", "flash", "sram", "cache"]
    size: Bytes | None = None
    bandwidth: Bandwidth | None = None
    address: int | None = Field(default=None, ge=0, lt=2**32, description="where a microcontroller has it")
    source: Source


class Protocol(BaseModel):
    """How a subject is measured: repeats until the interval of the median is narrow, within caps."""

    model_config = _STRICT
    warmup: int = Field(default=5, ge=0, description="runs before the first reading")
    reading: Seconds = Field(default=1e-3, validate_default=False, description="least duration of one reading")
    min_readings: int = Field(default=8, ge=3)
    max_readings: int = Field(default=60, ge=3)
    interval: Ratio = Field(default=0.02, description="target half-width of the median's 95 % interval, relative")
    timeout: Seconds = Field(default=20.0, validate_default=False, description="deadline of one load or run")
    drift: Ratio = Field(default=0.15, description="limit of the reference workload's change within a session")
    session: int = Field(default=40, ge=1, description="workloads between two checks of the reference workload")
    failures_in_a_row: int = Field(default=8, ge=1, description="then the board is quarantined")
    heat: Seconds = Field(default=0.0, validate_default=False, description="load before the first reading of a session")
    statistic: Literal["median", "p95"] = Field(
        default="median", description="what a reading of many runs is judged by"
    )
    energy_window: Seconds = Field(default=10.0, validate_default=False, description="gate of one energy window")
    energy_samples: int = Field(
        default=1000, ge=2, description="fewer meter samples in a window than this are no energy"
    )
    idle: Seconds = Field(
        default=1.0, validate_default=False, description="idle power is taken this long before and after"
    )


class TabularSource(BaseModel):
    """A device that answers from a CSV: which column is which metric, and its unit."""

    model_config = _STRICT
    file: str
    candidate: str
    metrics: dict[str, str] = Field(description="metric -> column")
    unit: dict[str, str] = Field(description="metric -> unit of that column, such as ms or mJ")
    invalid_below: float | None = Field(default=None, description="values at or below it are 'not measurable'")


class Mcu(BaseModel):
    """What firmware has to know of a microcontroller. Its memories carry addresses; the linker script comes from them."""

    model_config = _STRICT
    port: Literal["mps2", "an547", "stm32f4", "nrf52840", "rp2350"] = Field(description="folder in firmware/ports")
    cpu: str = Field(pattern=r"^cortex-m[0-9a-z+.]{1,20}$", description="gcc's -mcpu")
    fpu: str | None = Field(default=None, pattern=r"^[a-z0-9+-]{1,20}$", description="gcc's -mfpu; None: soft float")
    clock: Frequency
    baud: int = Field(default=115200, ge=1200, le=12_000_000)
    stack: Bytes = Field(default=4096.0, validate_default=False, description="reserved for the stack")


class Emulator(BaseModel):
    """A QEMU machine that stands in for the board; instructions come from its instruction counter."""

    model_config = _STRICT
    machine: str = Field(pattern=NAME, description="qemu-system-arm -M")
    shift: int = Field(
        default=5, ge=0, le=10, description="-icount shift: one instruction is 2^shift ns of virtual time"
    )
    paced: bool = Field(default=False, description="virtual time does not run ahead of real time, as on a board")


class Rpc(BaseModel):
    """A Linux board that runs TVM's RPC server. `emulated` means: under qemu-user, on this computer."""

    model_config = _STRICT
    key: Name = Field(description="what the board registers as at the tracker")
    emulated: Name | None = Field(default=None, description="qemu-user -cpu")


class Device(BaseModel):
    """A kind of board, as its YAML in `devices/` describes it."""

    model_config = _STRICT
    schema_: Literal[1] = Field(alias="schema")
    name: Name
    summary: str
    fidelity: Fidelity
    compute: Compute
    memories: tuple[Memory, ...]
    dtypes: tuple[Literal["fp32", "fp16", "int8"], ...]
    toolchains: tuple[str, ...] = Field(min_length=1)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="toolchain -> build options")
    runner: str
    meter: str | None = Field(default=None, description="a meter that every such board has; others are lab data")
    protocol: Protocol = Protocol()
    tabular: TabularSource | None = None
    mcu: Mcu | None = None
    emulator: Emulator | None = None
    rpc: Rpc | None = None
    accelerator: Accelerator | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Device:
        for toolchain in self.options:
            if toolchain not in self.toolchains:
                raise ValueError(f"options name toolchain {toolchain!r}, which is not in toolchains")
        if (self.runner == "tabular") != (self.tabular is not None):
            raise ValueError("runner: tabular and a tabular: section go together")
        if (self.runner == "firmware") != (self.mcu is not None):
            raise ValueError("runner: firmware and an mcu: section go together")
        if (self.runner == "tvm-rpc") != (self.rpc is not None):
            raise ValueError("runner: tvm-rpc and an rpc: section go together")
        if self.emulator is not None and self.mcu is None:
            raise ValueError("an emulator: section needs an mcu: section")
        emulated = self.emulator is not None or (self.rpc is not None and self.rpc.emulated is not None)
        if emulated and self.fidelity is Fidelity.HARDWARE:
            raise ValueError("an emulated device is not hardware: its fidelity is instruction-sim")
        if self.fidelity is Fidelity.CYCLE_SIM and self.accelerator is None:
            raise ValueError("a device of fidelity cycle-sim needs an accelerator: section, whose clock makes seconds")
        if self.fidelity is Fidelity.INSTRUCTION_SIM and self.compute.instructions_per_s is None:
            raise ValueError("a device of fidelity instruction-sim needs compute.instructions_per_s, such as 25 M/s")
        if self.mcu is not None:
            for use in ("flash", "ram"):
                memory = self.memory(use)
                if memory is None or memory.size is None or memory.address is None:
                    raise ValueError(f"a microcontroller needs the size and address of its {use}")
        return self

    @property
    def metric(self) -> RunMetric:
        """What one run is measured in on this device: latency, or instructions or cycles where no time is known."""
        return self.fidelity.metric

    @property
    def derived(self) -> tuple[str, ...]:
        """Metrics that follow from a row by what this YAML says: latency from cycles, energy from traffic.

        None do on hardware: there a clock and a meter tell, and no rule stands in for them.
        """
        if self.accelerator is None or self.fidelity is Fidelity.HARDWARE:
            return ()
        latency = ("latency",) if self.metric == "cycles" else ()
        return (*latency, "energy") if self.accelerator.energy is not None else latency

    def value(self, samples: Samples, metric: str) -> float | None:
        """What a row says of a metric on this device (SI), derived where it has to be; None if nothing says it."""
        if metric not in self.derived:
            return samples.metric(metric)
        assert self.accelerator is not None
        run = samples.metric(self.metric)
        if run is None:
            return None
        latency_s = run / self.accelerator.clock if self.metric == "cycles" else run
        if metric == "latency":
            return latency_s
        energy = self.accelerator.energy
        if energy is None or samples.traffic is None or samples.macs is None:
            return None
        try:
            return energy.joules(samples.macs, samples.traffic, latency_s)
        except KeyError as error:
            raise ConfigError(
                f"{self.name} does not price a byte of {error}", key="accelerator.energy.per_byte"
            ) from None

    @property
    def digest(self) -> str:
        document = self.model_dump(mode="json", by_alias=True)
        if self.accelerator is None:  # a section of some devices changes no digest of the others
            del document["accelerator"]
        return content_id(document)

    def memory(self, use: str) -> Memory | None:
        """The first memory of that use."""
        return next((m for m in self.memories if m.use == use), None)

    def tuned(self, toolchain: str) -> bool:
        """Whether the toolchain builds with tuned schedules for this device (option `tuned`, default false)."""
        return bool(self.options.get(toolchain, {}).get("tuned", False))

    def threads(self, toolchain: str) -> int:
        """How many threads the toolchain runs with on this device (option `threads`, default 1)."""
        return int(self.options.get(toolchain, {}).get("threads", 1))
