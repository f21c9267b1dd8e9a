"""The survey as JSON and in words, for the command and for HTTP alike."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from okno.core.machine import Device, Machine
from okno.inspect.hardware.machine import Survey, survey
from okno.inspect.hardware.overrides import Overrides, apply

GIB = 1 << 30


def surveyed(overrides: Overrides, *, with_engine: bool) -> Survey:
    """This machine with the what-if applied. The engine is not asked about a machine that is not
    here. Raises BadSetting."""
    found = survey(with_engine=with_engine and not overrides.given)
    return what_if(found, overrides)


def what_if(found: Survey, overrides: Overrides) -> Survey:
    """The survey of the machine that `overrides` make of it. Raises BadSetting."""
    if not overrides.given:
        return found
    return replace(found, machine=apply(found.machine, overrides), engine=None)


def hardware_body(found: Survey) -> dict[str, Any]:
    """Sizes in bytes, rates in bytes/s and operations/s; null is unknown."""
    machine = found.machine
    return {
        "machine": {**asdict(machine), "fingerprint": machine.fingerprint},
        "bound": bound(machine),
        "engine": asdict(found.engine) if found.engine else None,
        "notes": list(found.notes),
    }


def bound(machine: Machine) -> str:
    """What decides how large a model may be here, in a sentence or two."""
    usable = machine.usable_devices
    if not usable:
        return f"A model runs on the CPU, within {_ram(machine)}."
    devices = "; ".join(f"{_device(device)}" for device in usable)
    if all(device.unified for device in usable):
        return f"A model runs on {devices}, out of {_ram(machine)}."
    return f"A model runs on {devices}; what does not fit there goes to {_ram(machine)}."


def _device(device: Device) -> str:
    free = "unknown" if device.free_bytes is None else gib(device.free_bytes)
    return f"{device.name} ({device.id}), {free} free of {gib(device.total_bytes)}"


def _ram(machine: Machine) -> str:
    ram = machine.ram
    text = f"main memory, {gib(ram.free_bytes)} free of {gib(ram.total_bytes)}"
    if ram.bound_by.startswith("RLIMIT"):
        return f"{text} (bound by this process's limit {ram.bound_by}: see `ulimit -a`)"
    if ram.bound_by.startswith("/"):
        limit = f" of {gib(ram.limit_bytes)}" if ram.limit_bytes is not None else ""
        return f"{text} (bound by the limit{limit} of the cgroup {ram.bound_by})"
    return text


def gib(n_bytes: int) -> str:
    """`21.8 GiB`, `512 MiB`."""
    return f"{n_bytes / GIB:,.1f} GiB" if n_bytes >= GIB else f"{n_bytes / (1 << 20):,.0f} MiB"
