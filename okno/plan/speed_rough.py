"""A calibration guessed from a data sheet, for hardware that is not here. Wide intervals.

A product of rows with a matrix takes the longer of reading the weights and multiplying; measured
kernels reach a part of what the data sheet says of both, and lose some more where the two meet
(Williams, Waterman, Patterson, "Roofline", CACM 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

from okno.core.calibration import AttentionCost, Calibration, Curve
from okno.core.errors import BadSetting
from okno.core.machine import Cpu, Device, Machine
from okno.plan.speed_types import BITS

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
HEAD_DIMS = (64, 128, 256)
DEPTH_TOKENS = 8192
QUERIES_PER_KV_HEAD = 4  # of models with grouped queries: a cell is read once for so many
FLOPS_PER_BANDWIDTH = 80.0  # f16 operations per byte/s, where a device's flops are unknown
REACHED_BANDWIDTH, REACHED_FLOPS = 0.75, 0.35
CORE_BANDWIDTH_BYTES_S, CPU_BANDWIDTH_BYTES_S = 12e9, 45e9
GPU_BANDWIDTH_BYTES_S = 300e9
# Operations/s a core reaches in products of 4-bit weights, by the best instructions it has
# (docs/decisions.md has those of AVX-512, docs/benchmarks/amx.md those of AMX; the others in
# proportion to their width).
CORE_FLOPS = (("amx", 220e9), ("avx512", 110e9), ("avx_vnni", 80e9), ("avx2", 45e9),
              ("i8mm", 80e9), ("asimddp", 45e9), ("neon", 20e9))  # fmt: skip
PLAIN_FLOPS = 10e9
# A row alone goes through its cells with vector products, a tile with matrix products: measured 12
# and 3 ns per cell and head of 64 (Zen 4), 30 and 6 of 128.
TILED_ON_CPU, TILED_ON_DEVICE = 1 / 3, 2.0


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What is reached of a processor. op_s: from one operation to the next. tiled: what a row of
    attention costs in a tile of 64, times its arithmetic at attention_flops."""

    bandwidth_bytes_s: float
    flops: float
    attention_flops: float
    op_s: float
    step_s: float
    tiled: float


def rough_calibration(machine: Machine, device: str | None = None) -> Calibration:
    """Costs guessed for the first device the engine can use (the CPU without one), or for
    `device`: `cpu` or the id of any. Raises BadSetting for one the machine does not have."""
    chosen = _device(machine, device)
    sheet = _cpu_sheet(machine) if chosen is None else _device_sheet(chosen)
    return Calibration(
        engine="guessed from the data sheet",
        machine=machine.fingerprint,
        threads=machine.cpu.usable_cores if chosen is None else 1,  # shares work its own way
        created="",
        kind="rough",
        bandwidth_bytes_s=sheet.bandwidth_bytes_s,
        weights={name: _curve(sheet, bits) for name, bits in BITS.items()},
        experts={name: _curve(sheet, bits) for name, bits in BITS.items()},
        attention=tuple(
            _attention(sheet, kv, head_dim) for kv in KV_BYTES for head_dim in HEAD_DIMS
        ),
        step_s=sheet.step_s,
        op_s=sheet.op_s,
        activation_s=2 * 4 / sheet.bandwidth_bytes_s,
        sampling_s=130e-6,
        sample_s=20e-6,
        sample_entry_s=0.8e-9,
        noise=0.1,
        seen_depth_tokens=DEPTH_TOKENS,
        state_s=3 * 4 / sheet.bandwidth_bytes_s,
    )


def computes_on_cpu(machine: Machine, gpu_layers: int) -> bool:
    """No layer goes to an accelerator, of which a calibration, being of the CPU, says nothing."""
    return not machine.usable_devices or gpu_layers == 0


def _device(machine: Machine, wanted: str | None) -> Device | None:
    if wanted is None:
        return next(iter(machine.usable_devices), None)
    if wanted == "cpu":
        return None
    for device in machine.devices:
        if device.id == wanted:
            return device
    known = ", ".join(["cpu", *(device.id for device in machine.devices)])
    raise BadSetting(f"This machine has no device {wanted!r}; it has {known}.")


def _cpu_sheet(machine: Machine) -> _Sheet:
    cpu = machine.cpu
    guessed = min(CPU_BANDWIDTH_BYTES_S, CORE_BANDWIDTH_BYTES_S * cpu.usable_cores)
    flops = _core_flops(cpu) * cpu.usable_cores
    bandwidth = (machine.bandwidth_bytes_s or guessed) * REACHED_BANDWIDTH
    return _Sheet(bandwidth, flops, flops / 8, 2.5e-6, 100e-6, TILED_ON_CPU)


def _core_flops(cpu: Cpu) -> float:
    for name, flops in CORE_FLOPS:
        if any(feature.startswith(name) for feature in cpu.simd):
            return flops
    return CORE_FLOPS[-2][1] if cpu.architecture in ("arm64", "aarch64") else PLAIN_FLOPS


def _device_sheet(device: Device) -> _Sheet:
    bandwidth = device.bandwidth_bytes_s or GPU_BANDWIDTH_BYTES_S
    flops = (device.flops_f16 or bandwidth * FLOPS_PER_BANDWIDTH) * REACHED_FLOPS
    op_s = 1.5e-6 if device.kind == "cuda" else 3e-6
    return _Sheet(bandwidth * REACHED_BANDWIDTH, flops, flops / 2, op_s, 300e-6, TILED_ON_DEVICE)


def _curve(sheet: _Sheet, bits: float) -> Curve:
    read = bits / 8 / sheet.bandwidth_bytes_s
    seconds = tuple((read**2 + (2 * rows / sheet.flops) ** 2) ** 0.5 for rows in ROWS)
    return Curve(ROWS, seconds, (0.1,) * len(ROWS))


def _attention(sheet: _Sheet, kv: str, head_dim: int) -> AttentionCost:
    """Per cell and query head: K and V are read, and multiplied with 4 operations per value."""
    read = 2 * head_dim * KV_BYTES[kv] / QUERIES_PER_KV_HEAD / sheet.bandwidth_bytes_s
    compute = 4 * head_dim / sheet.attention_flops
    alone = read + compute
    tiled = kv in ("f16", "f32")
    return AttentionCost(
        kv, head_dim, _flat(alone), _flat(alone), _flat(sheet.tiled * compute) if tiled else None,
        skip_s=2 / sheet.bandwidth_bytes_s,
    )  # fmt: skip


def _flat(seconds: float) -> Curve:
    return Curve((DEPTH_TOKENS,), (seconds,), (0.1,))
