"""The machine a model would run on: facts, measured or given for a what-if."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["cuda", "rocm", "metal", "vulkan", "sycl"]
# For processes that load the engine: CUDA numbers devices as nvidia-smi does, not by their speed.
DEVICE_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True, slots=True)
class Cpu:
    """usable_cores: physical cores within affinity and quota. simd: names as Linux spells them
    (`avx2`, `avx512_vnni`, `neon`). Caches in bytes over all cores; 0: unknown."""

    name: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: int
    simd: tuple[str, ...] = ()
    l1d_bytes: int = 0
    l2_bytes: int = 0
    l3_bytes: int = 0
    numa_nodes: int = 1


@dataclass(frozen=True, slots=True)
class Ram:
    """total_bytes: of the machine. free_bytes: what a new process may still take, within every
    cgroup above it. bound_by: `machine`, a cgroup's folder, a process limit's name (`RLIMIT_AS`),
    or `given`. limit_bytes: the tightest cgroup limit, None without one."""

    total_bytes: int
    free_bytes: int
    bound_by: str = "machine"
    limit_bytes: int | None = None
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator. id: llama.cpp's name of it (`CUDA0`). unified: its memory is main memory, and
    its bytes are counted in Ram too. free_bytes None: unknown. bandwidth in bytes/s from the
    maker's table or given; None: unknown. source: the probe that found it. unusable: why this
    installation's engine cannot use it; empty: it can."""

    id: str
    kind: DeviceKind
    name: str
    total_bytes: int
    free_bytes: int | None
    unified: bool = False
    bandwidth_bytes_s: float | None = None
    flops_f16: float | None = None
    source: str = "given"
    unusable: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """overrides: what was given for a what-if instead of measured, such as `memory 8GB`.
    bandwidth_bytes_s: of main memory, given; None: calibration measures it."""

    os: str
    cpu: Cpu
    ram: Ram
    devices: tuple[Device, ...] = ()
    bandwidth_bytes_s: float | None = None
    overrides: tuple[str, ...] = ()

    @property
    def usable_devices(self) -> tuple[Device, ...]:
        """The accelerators the engine can put layers on."""
        return tuple(device for device in self.devices if not device.unusable)

    @property
    def fingerprint(self) -> str:
        """Names this hardware for what was learnt on it: the same cores, instructions and
        devices give the same 16 hex digits, whatever is free."""
        cpu = self.cpu
        devices = [(device.kind, device.name, device.total_bytes) for device in self.devices]
        told = (self.os, cpu.name, cpu.architecture, cpu.usable_cores, sorted(cpu.simd), devices)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
