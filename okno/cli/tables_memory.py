"""Memory as stacked bars: every part by its letter, so that colour only helps."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.plan.words import size

BAR_WIDTH = 60
PARTS = (
    ("weights_bytes", "weights", "W", "black on blue"),
    ("repacked_bytes", "repacked weights", "R", "black on bright_blue"),
    ("kv_bytes", "KV", "K", "black on green"),
    ("state_bytes", "state", "S", "black on bright_green"),
    ("compute_bytes", "compute", "C", "black on yellow"),
    ("output_bytes", "output", "O", "black on bright_yellow"),
    ("process_bytes", "process", "P", "black on magenta"),
    ("adapter_bytes", "adapters", "A", "black on cyan"),
    ("draft_bytes", "drafts", "D", "black on bright_cyan"),
    ("swap_bytes", "swap space", "H", "black on bright_magenta"),
)
MARGIN, FREE, OVER = "~", "·", "!"


def memory_bars(memory: MemoryPlan) -> list[RenderableType]:
    """A bar and its legend for each device."""
    return [line for device in memory.devices for line in _device(device, memory.margin_bytes)]


def _device(device: DeviceMemory, margin_bytes: int) -> Iterator[RenderableType]:
    needed = device.parts.needed_bytes + margin_bytes
    whole = max(needed, device.free_bytes or 0, 1)
    bar = Text("  ")
    for letter, style, cells in _cells(device.parts, margin_bytes, whole):
        bar.append(letter * cells, style=style)
    used = len(bar) - 2
    free_cells = round((device.free_bytes or 0) / whole * BAR_WIDTH)
    if device.free_bytes is not None and needed > device.free_bytes:
        bar = bar[:2 + free_cells] + Text("|", style="bold red") + bar[2 + free_cells:]  # fmt: skip
    bar.append(FREE * max(0, BAR_WIDTH - used), style="dim")
    yield bar
    yield Text(f"  {_legend(device, margin_bytes)}")


def _cells(parts: MemoryParts, margin_bytes: int, whole: int) -> Iterator[tuple[str, str, int]]:
    """Letter, style and width of each part; ends are rounded, so the sum stays true."""
    at_bytes = at = 0
    amounts = [(letter, style, getattr(parts, name)) for name, _, letter, style in PARTS]
    for letter, style, amount in [*amounts, (MARGIN, "dim", margin_bytes)]:
        at_bytes += amount
        end = round(at_bytes / whole * BAR_WIDTH)
        yield letter, style, end - at
        at = end


def _legend(device: DeviceMemory, margin_bytes: int) -> str:
    told = [
        f"{letter} {label} {size(getattr(device.parts, name))}"
        for name, label, letter, _ in PARTS
        if getattr(device.parts, name)
    ]
    if margin_bytes:
        told.append(f"{MARGIN} margin {size(margin_bytes)}")
    if device.parts.mapped_bytes:
        told.append(f"(mapped, can be taken back: {size(device.parts.mapped_bytes)})")
    if device.free_bytes is None:
        return f"{device.device}: {', '.join(told)}"
    over = device.parts.needed_bytes + margin_bytes - device.free_bytes
    rest = (
        f"{size(over)} too much (| is where it ends)" if over > 0 else f"{FREE} {size(-over)} left"
    )
    return f"{device.device}, {size(device.free_bytes)} free: {', '.join(told)}; {rest}"
