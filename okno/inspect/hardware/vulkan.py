"""Vulkan devices: vulkaninfo. They matter where no maker's own probe found the hardware."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from okno.core.machine import DeviceKind
from okno.inspect.hardware.devices import Found
from okno.inspect.hardware.host import Host, NotReadable

GPU = re.compile(r"^GPU(\d+):\s*$|^GPU id\s*[:=]\s*(\d+)", re.MULTILINE)
FIELD = re.compile(r"^\s*(vendorID|deviceType|deviceName)\s*=\s*(.*?)\s*$", re.MULTILINE)
HEAP = re.compile(
    r"memoryHeaps\[\d+\]:?\s+size\s*=\s*(\d+).*?\n(?:\s*budget\s*=\s*(\d+).*?\n)?"
    r"(?:\s*usage\s*=.*?\n)?\s*flags(.*?)(?=memoryHeaps\[|memoryTypes|$)",
    re.DOTALL,
)
SMALL_HEAP_BYTES = 512 << 20  # a window for the CPU into the same memory (BAR), not more memory
VENDOR_OF: dict[DeviceKind, int] = {
    "cuda": 0x10DE, "rocm": 0x1002, "sycl": 0x8086, "metal": 0x106B
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VulkanFound(Found):
    """vendor: the PCI id of the maker."""

    vendor: int = 0


def find(host: Host) -> list[Found]:
    """What vulkaninfo lists, software renderers left out. Raises NotReadable."""
    if host.os == "Darwin":  # there Vulkan is a layer over Metal
        return []
    said = host.call(["vulkaninfo"])
    return [] if said is None else list(parse_vulkaninfo(said))


def parse_vulkaninfo(text: str) -> list[VulkanFound]:
    """`vulkaninfo` in full, or `--summary` (which has no memory). Raises NotReadable when there is
    no device list in it."""
    if "VULKANINFO" not in text and "GPU0" not in text:
        raise NotReadable("vulkaninfo printed no list of devices")
    by_uuid: dict[tuple[str, int], VulkanFound] = {}
    for index, block in _blocks(text):
        found = _device(block)
        if found is not None:
            by_uuid.setdefault((found.name, index), found)
    return list(by_uuid.values())


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Each GPU's text. In the full listing surfaces come first, by `GPU id`: no device in them."""
    heads = list(GPU.finditer(text))
    for head, following in zip_longest(heads, heads[1:]):
        end = following.start() if following else len(text)
        yield int(head[1] or head[2]), text[head.end() : end]


def _device(block: str) -> VulkanFound | None:
    fields = dict(FIELD.findall(block))
    kind, name = fields.get("deviceType", ""), fields.get("deviceName", "")
    if not name or not kind.endswith(("DISCRETE_GPU", "INTEGRATED_GPU", "VIRTUAL_GPU")):
        return None
    vendor = int(fields["vendorID"], 16) if _is_hex(fields.get("vendorID", "")) else 0
    total, free = own_memory(block)
    unified = kind.endswith("INTEGRATED_GPU")
    return VulkanFound(
        "vulkan", name, None if unified else total, None if unified else free, "vulkaninfo",
        unified or total is None, vendor=vendor,
    )  # fmt: skip


def own_memory(block: str) -> tuple[int | None, int | None]:
    """Size and budget of the heaps in the device's own memory. (llama.cpp adds up the same heaps:
    ggml_backend_vk_get_device_memory in ggml-vulkan.cpp.)"""
    heaps = [
        (int(size), int(budget) if budget else None)
        for size, budget, flags in HEAP.findall(block)
        if "MEMORY_HEAP_DEVICE_LOCAL_BIT" in flags and int(size) > SMALL_HEAP_BYTES
    ]
    if not heaps:
        return None, None
    budgets = [budget for _, budget in heaps if budget is not None]
    free = sum(budgets) if len(budgets) == len(heaps) else None
    return sum(size for size, _ in heaps), free


def without_duplicates(found: Sequence[Found]) -> list[Found]:
    """A device whose maker's own probe found devices is not listed as a Vulkan device again."""
    seen = {VENDOR_OF[one.kind] for one in found if one.kind in VENDOR_OF}
    return [one for one in found if not (isinstance(one, VulkanFound) and one.vendor in seen)]


def _is_hex(text: str) -> bool:
    return re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) is not None
