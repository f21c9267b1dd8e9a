"""The survey of a machine as tables for a terminal: readable in 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from okno.core.machine import Cpu, Device, Machine, Ram
from okno.inspect.hardware.engine import EngineView
from okno.inspect.hardware.machine import Survey
from okno.inspect.hardware.report import bound, gib

MAX_WIDTH = 100
BAR_CELLS = 16
FULL, EMPTY = "█", "░"
TIGHT_SHARE = 0.9


def print_hardware(found: Survey, out: Console | None = None) -> None:
    """Everything a person wants to know before choosing a model."""
    out = out or Console(highlight=False)
    if out.width > MAX_WIDTH:
        out.width = MAX_WIDTH
    machine = found.machine
    out.print(_facts(machine, found.engine))
    out.print()
    out.print(_memory(machine))
    for line in _sentences(found):
        out.print()
        out.print(line)


def _facts(machine: Machine, engine: EngineView | None) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    cpu = machine.cpu
    table.add_row("CPU", Text(f"{cpu.name} ({cpu.architecture}, {machine.os})"))
    table.add_row("Cores", Text(_cores(cpu)))
    if cpu.simd:
        table.add_row("SIMD", Text(" ".join(cpu.simd)))
    if caches := _caches(cpu):
        table.add_row("Caches", Text(caches))
    if machine.bandwidth_bytes_s is not None:
        table.add_row("Bandwidth", Text(f"{_rate(machine.bandwidth_bytes_s)} of main memory"))
    if engine is not None:
        table.add_row("Engine", Text(_engine(engine)))
    table.add_row("Known as", Text(machine.fingerprint, style="dim"))
    return table


def _cores(cpu: Cpu) -> str:
    text = f"{cpu.usable_cores} usable of {cpu.physical_cores}"
    if cpu.logical_cores != cpu.physical_cores:
        text += f" ({cpu.logical_cores} threads)"
    return text + (f", {cpu.numa_nodes} NUMA nodes" if cpu.numa_nodes > 1 else "")


def _caches(cpu: Cpu) -> str:
    sizes = (("L1d", cpu.l1d_bytes), ("L2", cpu.l2_bytes), ("L3", cpu.l3_bytes))
    return " · ".join(f"{name} {_cache_size(size)}" for name, size in sizes if size)


def _cache_size(n_bytes: int) -> str:
    mib = n_bytes / (1 << 20)
    return f"{mib:,.4g} MiB" if mib >= 1 else f"{n_bytes / 1024:,.4g} KiB"


def _engine(engine: EngineView) -> str:
    names = ", ".join(f"{one.name} ({one.description})" for one in engine.devices)
    return f"llama-cpp-python {engine.version} uses {names or 'no device'}"


def _memory(machine: Machine) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("Memory", style="bold", overflow="fold", min_width=10)
    for name in ("Total", "Free"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Taken", no_wrap=True)
    table.add_column("Bandwidth", justify="right", no_wrap=True)
    table.add_column("Bound by", overflow="fold")
    for row in _rows(machine):
        table.add_row(*row)
    return table


def _rows(machine: Machine) -> Iterator[tuple[Text, ...]]:
    ram = machine.ram
    yield _row("RAM", ram.total_bytes, ram.free_bytes, machine.bandwidth_bytes_s, _ram_bound(ram))
    if ram.swap_total_bytes:
        yield _row("Swap", ram.swap_total_bytes, ram.swap_free_bytes, None, "never planned with")
    for device in machine.devices:
        yield _row(
            f"{device.id} {device.name}", device.total_bytes, device.free_bytes,
            device.bandwidth_bytes_s, _device_bound(device),
        )  # fmt: skip


def _row(
    name: str, total: int, free: int | None, bandwidth: float | None, why: str
) -> tuple[Text, ...]:
    shown_free = "?" if free is None else gib(free)
    rate = "" if bandwidth is None else _rate(bandwidth)
    return Text(name), Text(gib(total)), Text(shown_free), bar(total, free), Text(rate), Text(why)


def bar(total: int, free: int | None) -> Text:
    """How much is taken, in cells: yellow when little is left."""
    if free is None or not total:
        return Text("")
    share = min(1.0, max(0.0, 1 - free / total))
    cells = round(share * BAR_CELLS)
    style = "yellow" if share > TIGHT_SHARE else "green"
    return Text(FULL * cells, style=style) + Text(EMPTY * (BAR_CELLS - cells), style="dim")


def _ram_bound(ram: Ram) -> str:
    if ram.limit_bytes is None:
        return ram.bound_by
    return f"{ram.bound_by}, limit {gib(ram.limit_bytes)}"


def _device_bound(device: Device) -> str:
    if device.unusable:
        return "not usable (see below)"
    return "main memory" if device.unified else "its own size"


def _sentences(found: Survey) -> Iterator[Text]:
    """What bounds a model, what cannot be used and why, what is assumed or unknown."""
    machine = found.machine
    yield Text(bound(machine), style="bold")
    for device in machine.devices:
        if device.unusable:
            yield Text(f"{device.id} {device.name}: {device.unusable}.", style="yellow")
    if machine.overrides:
        yield Text(f"What if: {'; '.join(machine.overrides)}.", style="cyan")
    for note in found.notes:
        yield Text(note, style="yellow")


def _rate(bytes_s: float) -> str:
    return f"{bytes_s / 1e9:,.4g} GB/s"
