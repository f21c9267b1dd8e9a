"""AMD GPUs: amd-smi, rocm-smi, or the driver's own files where neither is installed.

An APU takes main memory beyond its small carve-out (GTT): it counts as unified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import PurePosixPath

from okno.inspect.hardware.devices import Found
from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import whole

DRM = PurePosixPath("/sys/class/drm")
VENDOR_ID = "0x1002"
MIB = 1 << 20
UNITS = {"B": 1, "KB": 1 << 10, "MB": MIB, "GB": 1 << 30}
CARVE_OUT_BYTES = 8 << 30  # an APU's own part; beyond it firmware offers more than half the memory
VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def find(host: Host) -> list[Found]:
    """From the first source that lists any. Raises NotReadable when a source is there, does not
    answer, and no other one does."""
    problems: list[NotReadable] = []
    for source in (_from_amd_smi, _from_rocm_smi, from_sysfs):
        try:
            found = source(host)
        except NotReadable as error:
            problems.append(error)
            continue
        if found:
            return visible(found, host.environment)
    if problems:
        raise problems[0]
    return []


def _from_amd_smi(host: Host) -> list[Found]:
    static = host.call(["amd-smi", "static", "--asic", "--vram", "--json"])
    if static is None:
        return []
    usage = host.call(["amd-smi", "metric", "--mem-usage", "--json"])
    return parse_amd_smi(static, usage or "[]")


def parse_amd_smi(static: str, usage: str) -> list[Found]:
    """`amd-smi static --asic --vram` and `amd-smi metric --mem-usage`, ROCm 6 (a list) and 7
    (`gpu_data`). Raises NotReadable."""
    memory = {str(gpu.get("gpu")): gpu.get("mem_usage") for gpu in _gpu_list(usage)}
    found = []
    for gpu in _gpu_list(static):
        used = _mapping(memory.get(str(gpu.get("gpu"))))
        total = _amount(used.get("total_vram")) or _amount(_mapping(gpu.get("vram")).get("size"))
        free = _amount(used.get("free_vram"))
        if free is None and total is not None and "used_vram" in used:
            free = max(0, total - (_amount(used.get("used_vram")) or 0))
        name = str(_mapping(gpu.get("asic")).get("market_name") or "AMD GPU")
        if total is not None:
            gtt = _amount(used.get("total_gtt")) or 0
            found.append(as_found(name, total, free, gtt, "amd-smi"))
    return found


def _gpu_list(text: str) -> Iterator[Mapping[str, object]]:
    said = _json(text, "amd-smi")
    gpus = said.get("gpu_data", []) if isinstance(said, dict) else said
    if not isinstance(gpus, list):
        raise NotReadable("amd-smi printed JSON without a list of GPUs")
    yield from (gpu for gpu in gpus if isinstance(gpu, dict))


def _amount(entry: object) -> int | None:
    """`{"value": 24560, "unit": "MB"}`, `{"value": "24560"}` or `24560 MB` in bytes; amd-smi's MB
    are MiB. None for `N/A` and 0."""
    if isinstance(entry, str):
        number, _, word = entry.partition(" ")
        entry = {"value": number, "unit": word}
    value = whole(str(_mapping(entry).get("value", "")))
    unit = str(_mapping(entry).get("unit") or "MB").strip().upper()
    return value * UNITS.get(unit, MIB) or None


def _from_rocm_smi(host: Host) -> list[Found]:
    args = ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "gtt", "--json"]
    said = host.call(args)
    return [] if said is None else parse_rocm_smi(said)


def parse_rocm_smi(text: str) -> list[Found]:
    """`rocm-smi --json`; `Card series` until ROCm 5, then `Card Series`. Raises NotReadable."""
    said = _json(text, "rocm-smi")
    if not isinstance(said, dict):
        raise NotReadable("rocm-smi printed JSON without cards")
    cards = [(name, _mapping(said[name])) for name in said if re.fullmatch(r"card\d+", name)]
    cards.sort(key=lambda card: int(card[0].removeprefix("card")))
    return [found for _, card in cards if (found := _rocm_card(card)) is not None]


def _rocm_card(card: Mapping[str, object]) -> Found | None:
    low = {name.lower(): str(value) for name, value in card.items()}
    total = whole(low.get("vram total memory (b)"))
    used = low.get("vram total used memory (b)")
    if not total:
        return None
    free = max(0, total - whole(used)) if used is not None else None
    name = low.get("card series", "")
    if not name or name.startswith("0x") or name == "n/a":
        name = low.get("card model", "") if not low.get("card model", "0x").startswith("0x") else ""
    return as_found(
        name or "AMD GPU", total, free, whole(low.get("gtt total memory (b)")), "rocm-smi"
    )


def from_sysfs(host: Host) -> list[Found]:
    """mem_info_* of the amdgpu driver (kernel docs, gpu/amdgpu/driver-misc.rst)."""
    found = []
    cards = [name for name in host.list_folder(DRM) if re.fullmatch(r"card\d+", name)]
    for card in sorted(cards, key=lambda name: int(name.removeprefix("card"))):
        folder = DRM / card / "device"
        if (host.read(folder / "vendor") or "").strip() != VENDOR_ID:
            continue
        total = whole(host.read(folder / "mem_info_vram_total"))
        used = whole(host.read(folder / "mem_info_vram_used"))
        name = (host.read(folder / "product_name") or "").strip()
        device = (host.read(folder / "device") or "").strip()
        gtt = whole(host.read(folder / "mem_info_gtt_total"))
        if total:
            name = name or f"AMD GPU {device}".strip()
            found.append(as_found(name, total, max(0, total - used), gtt, "sysfs"))
    return found


def as_found(name: str, total: int, free: int | None, gtt: int, source: str) -> Found:
    """gtt: bytes of main memory that the driver lets the GPU use. Cards have that too; an APU has
    more of it than memory of its own, and a name that says so."""
    if total <= CARVE_OUT_BYTES and gtt > total and is_apu(name):
        return Found("rocm", name, None, None, source, unified=True)
    return Found("rocm", name, total, free, source)


def is_apu(name: str) -> bool:
    """By AMD's names: `Radeon Graphics`, `Radeon 780M`, `Radeon 8060S`; cards are RX, Pro W."""
    return bool(re.search(r"\bradeon(\(tm\))?( graphics| \d{3}m\b| \d{4}s\b)", name.lower()))


def visible(found: list[Found], environment: Mapping[str, str]) -> list[Found]:
    """Those that the environment hides come last and say so. HIP counts what ROCR leaves."""
    hidden: list[Found] = []
    shown = found
    for name in VISIBLE:
        setting = environment.get(name)
        if setting is None or (chosen := chosen_of(setting, len(shown))) is None:
            continue
        why = f"hidden by {name}={setting[:80]}"
        hidden += [replace(one, hidden=why) for i, one in enumerate(shown) if i not in chosen]
        shown = [shown[index] for index in chosen]
    return shown + hidden


def chosen_of(setting: str, count: int) -> list[int] | None:
    """Which of `count` devices a list of indices names, each once; the first that there is not
    (such as -1) ends it. None for UUIDs, which only the driver knows."""
    words = [word.strip() for word in setting.split(",") if word.strip()]
    if not all(re.fullmatch(r"-?[0-9]{1,9}", word) for word in words):
        return None
    there = takewhile(lambda index: 0 <= index < count, map(int, words))
    return list(dict.fromkeys(there))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _json(text: str, program: str) -> object:
    """The JSON in a program's output; warnings may stand before it."""
    start = re.search(r"^\s*[\[{]", text, re.MULTILINE)
    try:
        return json.loads(text[start.start() :] if start else text)
    except (ValueError, RecursionError):
        raise NotReadable(f"{program} printed something other than JSON") from None
