"""This machine as a core.machine.Machine: every probe asked at once, and what they could not say.

`this_machine` and `survey` run the probes; `Overrides` and `apply` (overrides.py) make a what-if
of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from okno.core.machine import Device, Machine, Ram
from okno.inspect.hardware import amd, apple, engine, intel, nvidia, vulkan
from okno.inspect.hardware.devices import Found, as_device, beside_others, numbered
from okno.inspect.hardware.engine import EngineView
from okno.inspect.hardware.host import Host, NotReadable, this_host
from okno.inspect.hardware.maker import figures_of
from okno.inspect.hardware.overrides import Overrides, apply
from okno.inspect.hardware.processor import find_cpu
from okno.inspect.hardware.ram import find_ram

__all__ = ["Overrides", "Survey", "apply", "survey", "this_machine"]

Probe = Callable[[Host], list[Found]]
# In the order of llama.cpp's own preference; what vulkan finds again is dropped.
PROBES: tuple[tuple[str, Probe], ...] = (
    ("NVIDIA", nvidia.find),
    ("AMD", amd.find),
    ("Intel", intel.find),
    ("Apple", apple.find),
    ("Vulkan", vulkan.find),
)


@dataclass(frozen=True, slots=True)
class Survey:
    """notes: sentences about what could not be read. engine: the engine's own view, if asked."""

    machine: Machine
    notes: tuple[str, ...] = ()
    engine: EngineView | None = None


def this_machine(*, with_engine: bool = False) -> Machine:
    """What this machine is and what of it is free now. with_engine: also ask llama.cpp, in a child
    process (about a second), which devices it really uses and what is free there."""
    return survey(with_engine=with_engine).machine


def survey(*, with_engine: bool = False, host: Host | None = None) -> Survey:
    """`this_machine`, with what could not be read and why. Never raises for a broken driver."""
    host = host or this_host()
    with ThreadPoolExecutor(len(PROBES) + 2) as pool:
        cpu_asked = pool.submit(find_cpu, host)
        view_asked = pool.submit(engine.ask) if with_engine else None
        asked = [(vendor, pool.submit(_find, probe, host)) for vendor, probe in PROBES]
        cpu, cpu_notes = cpu_asked.result()
        answers = [(vendor, future.result()) for vendor, future in asked]
        view, view_notes = view_asked.result() if view_asked else (None, ())
    ram = find_ram(host)
    found = vulkan.without_duplicates([one for _, (devices, _) in answers for one in devices])
    devices = _devices(found, ram, view)
    notes = [f"{vendor} devices not readable: {why}." for vendor, (_, why) in answers if why]
    machine = Machine(host.os, cpu, ram, devices)
    return Survey(machine, (*cpu_notes, *notes, *view_notes), view)


def _find(probe: Probe, host: Host) -> tuple[list[Found], str]:
    try:
        return probe(host), ""
    except NotReadable as error:
        return [], str(error)


def _devices(found: Iterable[Found], ram: Ram, view: EngineView | None) -> tuple[Device, ...]:
    """With the maker's figures, and which of them the engine uses."""
    usable = [engine.through_backend(one, engine.backends()) for one in found]
    devices = tuple(
        _with_figures(as_device(name, one, ram.total_bytes, ram.free_bytes), one.cores)
        for name, one in numbered(usable)
    )
    if view is None:
        return beside_others(engine.marked(device, engine.backends()) for device in devices)
    return beside_others(_with_figures(one, None) for one in engine.merged(devices, view))


def _with_figures(device: Device, cores: int | None) -> Device:
    if device.bandwidth_bytes_s is not None:
        return device
    figures = figures_of(device.name, device.total_bytes or None, cores)
    if figures is None:
        return device
    return replace(device, bandwidth_bytes_s=figures.bandwidth_bytes_s, flops_f16=figures.flops_f16)
