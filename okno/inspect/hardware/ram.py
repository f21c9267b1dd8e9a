"""Main memory and swap, within the limits set on this process."""

from __future__ import annotations

import psutil

from okno.core.machine import Ram
from okno.inspect.hardware.host import Host
from okno.inspect.memory import PROC, FreeMemory, memory_from, memory_limit, parse_meminfo_fields


def find_ram(host: Host) -> Ram:
    """From Linux' files as `host` gives them; elsewhere as psutil counts."""
    fields = parse_meminfo_fields(host.read(PROC / "meminfo") or "")
    free = memory_from(host.read)
    if free is None or "MemTotal" not in fields:
        return _from_psutil()
    limit = memory_limit(host.read)
    return Ram(
        total_bytes=fields["MemTotal"],
        free_bytes=min(free.free_bytes, fields["MemTotal"]),
        bound_by=free.bound_by,
        limit_bytes=limit if limit is not None and limit < fields["MemTotal"] else None,
        swap_total_bytes=fields.get("SwapTotal", 0),
        swap_free_bytes=fields.get("SwapFree", 0),
    )


def _from_psutil() -> Ram:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    free = FreeMemory(memory.available, "machine")
    return Ram(
        memory.total, free.free_bytes, free.bound_by,
        swap_total_bytes=swap.total, swap_free_bytes=swap.free,
    )  # fmt: skip
