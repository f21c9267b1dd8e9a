"""What-if: a machine with some of its facts replaced by given ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from okno.core.errors import BadSetting
from okno.core.machine import Cpu, Device, DeviceKind, Machine, Ram
from okno.inspect.hardware.apple import working_set_bytes
from okno.inspect.hardware.devices import beside_others, device_id
from okno.inspect.hardware.maker import MakerFigures, figures_of, known_names, variants_of

GIB = 1 << 30
KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
# What is assumed to be taken already when only a size is given.
RAM_TAKEN_BYTES = GIB  # a Linux desktop at rest; Windows takes more
DEVICE_TAKEN_BYTES = GIB // 2  # the driver and a desktop


@dataclass(frozen=True, slots=True)
class Overrides:
    """Given facts; None: as measured. device: `cpu`, a kind (`cuda`, ...) or the name of a known
    accelerator (`RTX 4090`). memory_bytes and bandwidth_bytes_s: of the place where the model
    would run (that device, else the first usable one, else main memory). free_bytes: of that
    memory. cores: threads that compute."""

    memory_bytes: int | None = None
    device: str | None = None
    bandwidth_bytes_s: float | None = None
    cores: int | None = None
    free_bytes: int | None = None

    @property
    def given(self) -> bool:
        """Something is given."""
        return self != Overrides()


def apply(machine: Machine, overrides: Overrides) -> Machine:
    """`machine` as it would be with what is given. What is assumed on the way (free memory) is
    said in `machine.overrides`.

    Raises BadSetting for a device nobody knows, or one that is not here and has no --memory.
    """
    if not overrides.given:
        return machine
    machine = _with_cores(machine, overrides.cores)
    machine = _with_device(machine, overrides)
    target = machine.usable_devices[0] if machine.usable_devices else None
    if target is None:
        return _on_cpu(machine, overrides)
    return _on_device(machine, target, overrides)


def _with_cores(machine: Machine, cores: int | None) -> Machine:
    if cores is None:
        return machine
    cpu: Cpu = replace(
        machine.cpu, usable_cores=cores,
        physical_cores=max(cores, machine.cpu.physical_cores),
        logical_cores=max(cores, machine.cpu.logical_cores),
    )  # fmt: skip
    return _said(replace(machine, cpu=cpu), f"cores {cores}")


def _with_device(machine: Machine, overrides: Overrides) -> Machine:
    """The machine with exactly the accelerators that were asked for."""
    asked = overrides.device
    if asked is None:
        return machine
    word = asked.strip().lower()
    if word == "cpu":
        return _said(replace(machine, devices=()), "device cpu")
    figures = None if word in KINDS else _known(asked, overrides.memory_bytes)
    kind: DeviceKind = figures.kind if figures else _kind(word)
    memory = overrides.memory_bytes or (figures.memory_bytes if figures else None)
    if memory is None:
        return _own_of_kind(machine, kind, asked)
    device = _given_device(kind, figures, memory)
    return _said(replace(machine, devices=(device,)), f"device {figures.name if figures else kind}")


def _kind(word: str) -> DeviceKind:
    return next(kind for kind in KINDS if kind == word)


def _known(asked: str, memory: int | None) -> MakerFigures:
    """The entry of the maker's table; of one whose size was overridden the nearest in size."""
    figures = figures_of(asked, memory) or figures_of(asked)
    if figures is not None:
        return figures
    if variants := variants_of(asked):
        told = ", ".join(_told(one) for one in variants)
        raise BadSetting(
            f"--device {_shown(asked)} comes in several variants ({told}). Say which by --memory, "
            f"or give its kind and figures: --device {variants[0].kind} --memory 16GB "
            f"--bandwidth {variants[0].bandwidth_bytes_s / 1e9:.4g}GB/s.",
            param="--device",
        )
    near = known_names(asked)
    hint = f" The nearest known: {', '.join(near)}." if near else ""
    raise BadSetting(
        f"--device {_shown(asked)} is neither cpu, {', '.join(KINDS)} nor an accelerator okno "
        f"knows.{hint} For another one give its kind and size: --device cuda --memory 8GB.",
        param="--device",
    )


def _told(one: MakerFigures) -> str:
    size = f"{_size(one.memory_bytes)} at " if one.memory_bytes else ""
    cores = f"{one.cores} cores at " if one.cores else ""
    return f"{cores}{size}{_rate(one.bandwidth_bytes_s)}"


def _own_of_kind(machine: Machine, kind: DeviceKind, asked: str) -> Machine:
    """The accelerators of that kind which are really here."""
    own = tuple(device for device in machine.devices if device.kind == kind)
    if not own:
        raise BadSetting(
            f"--device {_shown(asked)}: this machine has none. To plan for one say how much memory "
            f"it has: --device {_shown(asked)} --memory 16GB.",
            param="--device",
        )
    devices = beside_others(replace(device, unusable="") for device in own)
    return _said(replace(machine, devices=devices), f"device {kind}")


def _given_device(kind: DeviceKind, figures: MakerFigures | None, memory: int) -> Device:
    unified = figures.unified if figures else kind == "metal"
    return Device(
        id=device_id(kind, 0), kind=kind, name=figures.name if figures else f"a {kind} device",
        total_bytes=memory, free_bytes=None, unified=unified,
        bandwidth_bytes_s=figures.bandwidth_bytes_s if figures else None,
        flops_f16=figures.flops_f16 if figures else None,
    )  # fmt: skip


def _on_cpu(machine: Machine, overrides: Overrides) -> Machine:
    machine = _with_ram(machine, overrides.memory_bytes, overrides.free_bytes)
    rate = overrides.bandwidth_bytes_s
    if rate is None:
        return machine
    return _said(replace(machine, bandwidth_bytes_s=rate), f"memory bandwidth {_rate(rate)}")


def _on_device(machine: Machine, target: Device, overrides: Overrides) -> Machine:
    device = target
    memory = overrides.memory_bytes or (target.total_bytes if target.source == "given" else None)
    if memory is not None or overrides.free_bytes is not None:
        machine, device = _with_device_memory(machine, target, memory, overrides.free_bytes)
    rate = overrides.bandwidth_bytes_s
    if rate is not None:
        device = replace(device, bandwidth_bytes_s=rate)
        machine = _said(machine, f"{device.id} bandwidth {_rate(rate)}")
    others = tuple(device if one.id == target.id else one for one in machine.devices)
    return replace(machine, devices=others)


def _with_device_memory(
    machine: Machine, device: Device, memory: int | None, free: int | None
) -> tuple[Machine, Device]:
    """Unified memory is main memory too, so both change."""
    if device.unified:
        machine = _with_ram(machine, memory, free)
        limit = working_set_bytes(machine.ram.total_bytes)
        total = limit if device.kind == "metal" else machine.ram.total_bytes
        free_bytes = min(total, machine.ram.free_bytes)
        return machine, replace(device, total_bytes=total, free_bytes=free_bytes)
    total = memory or device.total_bytes
    free_bytes, assumed = _free(total, free, DEVICE_TAKEN_BYTES)
    said = f"{device.id} memory {_size(total)}, {_size(free_bytes)} free{assumed}"
    return _said(machine, said), replace(device, total_bytes=total, free_bytes=free_bytes)


def _with_ram(machine: Machine, memory: int | None, free: int | None) -> Machine:
    if memory is None and free is None:
        return machine
    total = memory or machine.ram.total_bytes
    free_bytes, assumed = _free(total, free, RAM_TAKEN_BYTES)
    ram = Ram(total, free_bytes, "given")
    said = f"main memory {_size(total)}, {_size(free_bytes)} free{assumed}"
    return _said(replace(machine, ram=ram), said)


def _free(total: int, free: int | None, taken: int) -> tuple[int, str]:
    """What is free of `total`, and the words that say when that was assumed."""
    if free is None:
        return total - min(taken, total // 8), " (assumed)"
    if free > total:
        raise BadSetting(
            f"--free {_size(free)} is more than the memory there: {_size(total)}. Give at most "
            "that, or more --memory.",
            param="--free", free_bytes=free, total_bytes=total,
        )  # fmt: skip
    return free, ""


def _said(machine: Machine, what: str) -> Machine:
    return replace(machine, overrides=(*machine.overrides, what))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.3g} GiB" if n_bytes < 1000 * GIB else f"{n_bytes / GIB:,.0f} GiB"


def _rate(bytes_s: float) -> str:
    return f"{bytes_s / 1e9:,.4g} GB/s"


def _shown(text: str) -> str:
    text = text if text.isprintable() else ascii(text)
    return text[:40] + "…" if len(text) > 40 else text
