"""Whether a second window of a loaded model fits beside the one that is open."""

from __future__ import annotations

from dataclasses import replace

from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan


def fits_beside(new: MemoryPlan, old: MemoryPlan) -> bool:
    """Both windows' contexts, one copy of the weights, the states on their way between them in main
    memory, and the margin. Each plan is of the whole load; free bytes are those before loading."""
    held = {device.device: context_bytes(device.parts) for device in old.devices}
    shared = sum(held[device.device] for device in old.devices if device.unified)
    both = replace(new, devices=tuple(_less(device, held, shared) for device in new.devices))
    return not both.over_bytes(min(_states_bytes(new), _states_bytes(old)))


def context_bytes(parts: MemoryParts) -> int:
    """What a context holds of `parts`, and gives back when it is freed."""
    return parts.kv_bytes + parts.state_bytes + parts.compute_bytes + parts.output_bytes


def _less(device: DeviceMemory, held: dict[str, int], shared: int) -> DeviceMemory:
    """`device` with what the old window holds taken off its free memory; main memory also without
    what unified devices hold of it."""
    if device.free_bytes is None:
        return device
    taken = held.get(device.device, 0) + (shared if device.device == "cpu" else 0)
    return replace(device, free_bytes=device.free_bytes - taken)


def _states_bytes(plan: MemoryPlan) -> int:
    return sum(device.parts.kv_bytes + device.parts.state_bytes for device in plan.devices)
