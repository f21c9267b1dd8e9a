"""NVIDIA GPUs: nvidia-smi. Its CSV gives everything but the parts of a GPU in MIG mode (XML, and
the list of UUIDs).

GPUs that share main memory (GB10, Jetson) have no memory there (`[N/A]`): theirs is MemAvailable.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from okno.inspect.hardware.devices import Found
from okno.inspect.hardware.host import Host, NotReadable, first_line

MIB = 1 << 20
FIELDS = ("index", "uuid", "name", "memory.total", "memory.free")
MIG_FIELD = "mig.mode.current"  # unknown to drivers before 450
# WSL has it outside the PATH of services.
PROGRAMS = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")
SOURCE = "nvidia-smi"
ONE_PART = "CUDA uses one MIG device in a process"
LISTED = re.compile(r"\(UUID:\s*(GPU-[^)\s]+)\)|Device\s+(\d+):\s*\(UUID:\s*(MIG-[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Row:
    """One GPU of the CSV. Sizes None: it has no memory of its own count."""

    index: str
    uuid: str
    name: str
    total_bytes: int | None
    free_bytes: int | None
    mig: bool

    @property
    def found(self) -> Found:
        unified = self.total_bytes is None
        return Found("cuda", self.name, self.total_bytes, self.free_bytes, SOURCE, unified)


@dataclass(frozen=True, slots=True)
class Part:
    """One MIG device. gpu_uuid: of the GPU it is a part of; index: there. uuid: its own, empty
    when unknown."""

    gpu_uuid: str
    index: str
    uuid: str
    total_bytes: int
    free_bytes: int


def find(host: Host) -> list[Found]:
    """The GPUs as CUDA would list them. Raises NotReadable when the driver does not answer."""
    for program in PROGRAMS:
        rows = _rows(host, program)
        if rows is None:
            continue
        parts = _parts(host, program) if any(row.mig for row in rows) else []
        return visible(rows, parts, host.environment.get("CUDA_VISIBLE_DEVICES"))
    return []


def _rows(host: Host, program: str) -> list[Row] | None:
    try:
        said = host.call(query(program, (*FIELDS, MIG_FIELD)))
    except NotReadable as error:
        if "not a valid field" not in str(error):
            raise
        said = host.call(query(program, FIELDS))
    return None if said is None else parse_query(said)


def _parts(host: Host, program: str) -> list[Part]:
    """The MIG devices. The XML of most drivers leaves out their UUIDs, which `-L` lists."""
    said = host.call([program, "-q", "-x"])
    parts = parse_mig(said) if said is not None else []
    if all(part.uuid for part in parts):
        return parts
    try:
        uuids = parse_listing(host.call([program, "-L"]) or "")
    except NotReadable:  # they matter only to CUDA_VISIBLE_DEVICES
        return parts
    return [replace(p, uuid=p.uuid or uuids.get((p.gpu_uuid, p.index), "")) for p in parts]


def query(program: str, fields: Sequence[str]) -> list[str]:
    return [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]


def parse_query(text: str) -> list[Row]:
    """The CSV of FIELDS, with or without MIG_FIELD. `No devices were found` is no GPU.

    Raises NotReadable for anything else.
    """
    if text.strip().lower().startswith("no devices"):
        return []
    try:
        rows = [cells for cells in csv.reader(text.splitlines(), skipinitialspace=True) if cells]
    except csv.Error:
        raise NotReadable("nvidia-smi printed something other than CSV") from None
    return [_row(cells) for cells in rows]


def _row(cells: list[str]) -> Row:
    if len(cells) not in (len(FIELDS), len(FIELDS) + 1) or not cells[0].strip().isdigit():
        raise NotReadable(f"nvidia-smi printed {first_line(','.join(cells))!r}")
    index, uuid, name, total, free = (cell.strip() for cell in cells[: len(FIELDS)])
    mig = cells[-1].strip() == "Enabled"
    return Row(index, uuid, name, _mib(total), _mib(free), mig)


def _mib(cell: str) -> int | None:
    """`24564` (MiB); None for `[N/A]`, `[Not Supported]`, `[Unknown Error]`."""
    number = cell.removesuffix("MiB").strip()
    return int(number) * MIB if number.isascii() and number.isdigit() and len(number) < 10 else None


def parse_mig(text: str) -> list[Part]:
    """The MIG devices in the XML of `nvidia-smi -q -x`. Raises NotReadable."""
    if "<!ENTITY" in text:
        raise NotReadable("the XML of nvidia-smi declares entities")
    try:
        log = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError):
        raise NotReadable("nvidia-smi -q -x printed something other than XML") from None
    parts = []
    for gpu in log.iter("gpu"):
        gpu_uuid = (gpu.findtext("uuid") or "").strip()
        for device in gpu.iterfind("mig_devices/mig_device"):
            total = _mib(device.findtext("fb_memory_usage/total") or "")
            free = _mib(device.findtext("fb_memory_usage/free") or "")
            index, uuid = ((device.findtext(key) or "").strip() for key in ("index", "uuid"))
            if total:
                free = total if free is None else free
                parts.append(Part(gpu_uuid, index, uuid, total, free))
    return parts


def parse_listing(text: str) -> dict[tuple[str, str], str]:
    """The UUIDs of MIG devices in `nvidia-smi -L`, by their GPU's UUID and their index there."""
    found: dict[tuple[str, str], str] = {}
    gpu = ""
    for gpu_uuid, index, uuid in LISTED.findall(text):
        gpu = gpu_uuid or gpu
        if uuid:
            found[gpu, index] = uuid
    return found


def visible(rows: Sequence[Row], parts: Sequence[Part], setting: str | None) -> list[Found]:
    """The devices in CUDA's order; those that a process does not see come last and say why.

    CUDA_VISIBLE_DEVICES names them by index or UUID; the first name of nothing (such as -1) ends
    the list. A GPU in MIG mode is only its parts.
    """
    devices = [one for row in rows for one in _devices(row, parts)]
    if setting is None:
        return _without_more_than_one_part(devices, [])
    shown: list[_Listed] = []
    for word in filter(None, map(str.strip, setting.split(","))):
        named = [one for one in devices if one.is_named(word)]
        if not named:
            break
        shown += [one for one in named if one not in shown]
    why = f"hidden by CUDA_VISIBLE_DEVICES={setting[:80]}"
    hidden = [replace(one.found, hidden=why) for one in devices if one not in shown]
    return _without_more_than_one_part(shown, hidden)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A device that CUDA_VISIBLE_DEVICES may name: a GPU (part None) or a part of one."""

    row: Row
    part: Part | None
    found: Found

    def is_named(self, word: str) -> bool:
        """By its GPU's index, how the GPU's UUID begins, or how its own does. (Older drivers do
        not tell the UUID of a part, and name it after its GPU: `MIG-GPU-<uuid>/1/0`.)"""
        if self.part is None or not word.startswith("MIG-"):
            return word == self.row.index or self.row.uuid.startswith(word)
        if self.part.uuid:
            return self.part.uuid.startswith(word)
        gpu = word.removeprefix("MIG-").partition("/")[0]
        return not gpu.startswith("GPU-") or self.row.uuid.startswith(gpu)


def _without_more_than_one_part(shown: Sequence[_Listed], hidden: list[Found]) -> list[Found]:
    """CUDA uses the first MIG device in a process, and then no whole GPU (NVIDIA's MIG User Guide,
    "CUDA Device Enumeration"). What is left out comes before `hidden`."""
    first = next((one for one in shown if one.part is not None), None)
    if first is None:
        return [*(one.found for one in shown), *hidden]
    rest = [
        one.found if one.found.hidden else replace(one.found, hidden=ONE_PART)
        for one in shown
        if one is not first
    ]
    return [first.found, *rest, *hidden]


def _devices(row: Row, parts: Sequence[Part]) -> list[_Listed]:
    if not row.mig:
        return [_Listed(row, None, row.found)]
    own = [part for part in parts if part.gpu_uuid == row.uuid]
    if not own:
        why = "it is in MIG mode and has no MIG device to use"
        return [_Listed(row, None, replace(row.found, hidden=why))]
    return [_Listed(row, part, _part_found(row, part)) for part in own]


def _part_found(row: Row, part: Part) -> Found:
    return Found("cuda", f"{row.name} MIG", part.total_bytes, part.free_bytes, SOURCE)
