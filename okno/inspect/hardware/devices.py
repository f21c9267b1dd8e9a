"""What a probe of accelerators says, before the maker's figures and the engine's view are added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from okno.core.machine import Device, DeviceKind

# The names llama.cpp gives its devices, so that its own reports can be matched.
ID_PREFIX: dict[DeviceKind, str] = {
    "cuda": "CUDA", "rocm": "ROCm", "metal": "MTL", "vulkan": "Vulkan", "sycl": "SYCL",
}  # fmt: skip
ONLY_ALONE = "llama.cpp uses an integrated GPU only where there is no other"


@dataclass(frozen=True, slots=True)
class Found:
    """An accelerator as its probe sees it. total_bytes None: it has no memory of its own count.
    unified: its memory is main memory. cores: GPU cores where that tells variants apart (Apple).
    hidden: why programs do not see it, such as CUDA_VISIBLE_DEVICES."""

    kind: DeviceKind
    name: str
    total_bytes: int | None
    free_bytes: int | None
    source: str
    unified: bool = False
    cores: int | None = None
    hidden: str = ""


def device_id(kind: DeviceKind, index: int) -> str:
    """`CUDA0`: llama.cpp's name of the device."""
    return f"{ID_PREFIX[kind]}{index}"


def numbered(found: Iterable[Found]) -> list[tuple[str, Found]]:
    """Each with its id; hidden ones are not counted, as the engine does not count them."""
    counts: dict[str, int] = {}
    named = []
    for device in found:
        prefix = ID_PREFIX[device.kind]
        key = f"{prefix} hidden " if device.hidden else prefix
        index = counts.get(key, 0)
        counts[key] = index + 1
        named.append((f"{key}{index}", device))
    return named


def as_device(device_id: str, found: Found, ram_total_bytes: int, ram_free_bytes: int) -> Device:
    """The device, unified memory resolved: its size is main memory's, unless the probe knows a
    limit, and what is free of it is what is free of main memory."""
    total, free = found.total_bytes, found.free_bytes
    if found.unified:
        total = ram_total_bytes if total is None else min(total, ram_total_bytes)
        free = min(total, ram_free_bytes) if free is None else min(free, ram_free_bytes)
    return Device(
        id=device_id, kind=found.kind, name=found.name, total_bytes=total or 0, free_bytes=free,
        unified=found.unified, source=found.source, unusable=found.hidden,
    )  # fmt: skip


def beside_others(devices: Iterable[Device]) -> tuple[Device, ...]:
    """With why integrated GPUs stay idle, where there is a usable one with memory of its own
    (llama.cpp, llama_prepare_model_devices)."""
    known = tuple(devices)
    if not any(not one.unified and not one.unusable for one in known):
        return known
    return tuple(
        replace(one, unusable=ONLY_ALONE) if one.unified and not one.unusable else one
        for one in known
    )
