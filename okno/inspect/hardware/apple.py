"""Apple GPUs: system_profiler and sysctl. Their memory is main memory, within a soft limit."""

from __future__ import annotations

import json

from okno.inspect.hardware.devices import Found
from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import whole
from okno.inspect.hardware.processor_mac import parse_sysctl

GIB = 1 << 30
LARGE_BYTES = 36 * GIB


def find(host: Host) -> list[Found]:
    if host.os != "Darwin":
        return []
    values = parse_sysctl(host.call(["sysctl", "hw.memsize", "iogpu.wired_limit_mb"]) or "")
    said = host.call(["system_profiler", "SPDisplaysDataType", "-json"])
    if said is None:
        raise NotReadable("there is no system_profiler")
    limit = whole(values.get("iogpu.wired_limit_mb")) << 20
    memory = whole(values.get("hw.memsize"))
    return parse_displays(said, limit or working_set_bytes(memory))


def working_set_bytes(memory_bytes: int) -> int:
    """Metal's recommendedMaxWorkingSetSize, which llama.cpp takes as the GPU's memory: two thirds
    of main memory, three quarters from 36 GiB on. A soft limit: `sysctl iogpu.wired_limit_mb`
    changes it. Not documented by Apple; the values llama.cpp logs (5,726 MB of 8 GiB, 22,906 of
    32, 28,991 of 36, 51,539 of 64) follow it."""
    return memory_bytes * 3 // 4 if memory_bytes >= LARGE_BYTES else memory_bytes * 2 // 3


def parse_displays(text: str, limit_bytes: int) -> list[Found]:
    """`system_profiler SPDisplaysDataType -json`: the GPUs of Apple silicon. Those of Intel Macs
    are not listed: llama.cpp's Metal kernels gain nothing there. Raises NotReadable."""
    try:
        cards = json.loads(text)["SPDisplaysDataType"]
        return [_found(card, limit_bytes) for card in cards if _is_apple(card)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotReadable("system_profiler printed something other than its JSON") from None


def _is_apple(card: dict[str, object]) -> bool:
    return "apple" in str(card.get("spdisplays_vendor", card.get("sppci_vendor", ""))).lower()


def _found(card: dict[str, object], limit_bytes: int) -> Found:
    name = str(card.get("sppci_model") or card.get("_name") or "Apple GPU")
    cores = whole(str(card.get("sppci_cores", ""))) or None
    return Found("metal", name, limit_bytes or None, None, "system_profiler", True, cores)
