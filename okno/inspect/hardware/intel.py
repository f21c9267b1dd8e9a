"""Intel GPUs: xpu-smi, or the driver's own files for cards with memory of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from okno.inspect.hardware.devices import Found
from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import whole

DRM = PurePosixPath("/sys/class/drm")
VENDOR_ID = "0x8086"
# Of i915 and of xe, where the kernel has them; without one the GPU counts as integrated.
MEMORY_FILES = ("lmem_total_bytes", "device/tile0/physical_vram_size_bytes")
FREE_FILES = ("lmem_avail_bytes",)


def find(host: Host) -> list[Found]:
    """Raises NotReadable when xpu-smi is there, does not answer, and the files say nothing."""
    problem = None
    try:
        said = host.call(["xpu-smi", "discovery", "-j", "--dump", "2"])
        found = [] if said is None else parse_xpu_smi(said)
    except NotReadable as error:
        problem, found = error, []
    found = found or from_sysfs(host)
    if problem and not found:
        raise problem
    return found


def parse_xpu_smi(text: str) -> list[Found]:
    """`xpu-smi discovery -j`, with all properties (`--dump 2`) or without (no memory: unified).
    Raises NotReadable."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise NotReadable("xpu-smi printed something other than JSON") from None
    listed = said.get("device_list", [said]) if isinstance(said, dict) else None
    if not isinstance(listed, list):
        raise NotReadable("xpu-smi printed JSON without a list of devices")
    devices = [one for one in listed if isinstance(one, dict)]
    return [_found(one) for one in devices if one.get("device_type", "GPU") == "GPU"]


def _found(device: Mapping[str, object]) -> Found:
    name = str(device.get("device_name") or "Intel GPU")
    total = whole(str(device.get("memory_physical_size_byte") or ""))
    free = whole(str(device.get("memory_free_size_byte") or ""))
    if not total:
        return Found("sycl", name, None, None, "xpu-smi", unified=True)
    return Found("sycl", name, total, min(free, total) or None, "xpu-smi")


def from_sysfs(host: Host) -> list[Found]:
    found = []
    for card in host.list_folder(DRM):
        if not re.fullmatch(r"card\d+", card):
            continue
        folder = DRM / card
        if (host.read(folder / "device/vendor") or "").strip() != VENDOR_ID:
            continue
        device = (host.read(folder / "device/device") or "").strip()
        total = next((n for name in MEMORY_FILES if (n := whole(host.read(folder / name)))), None)
        free = next((n for name in FREE_FILES if (n := whole(host.read(folder / name)))), None)
        name = f"Intel GPU {device}".strip()
        found.append(Found("sycl", name, total, free, "sysfs", unified=total is None))
    return found
