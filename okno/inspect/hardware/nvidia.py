"""NVIDIA GPUs: nvidia-smi. Its CSV gives everything but the parts of a GPU in MIG mode (XML).

GPUs that share main memory (GB10, Jetson) have no memory there (`[N/A]`): theirs is MemAvailable.
"""

from __future__ import annotations

import csv
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
    """One MIG device. gpu_uuid: of the GPU it is a part of."""

    gpu_uuid: str
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
    said = host.call([program, "-q", "-x"])
    return parse_mig(said) if said is not None else []


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
        uuid = (gpu.findtext("uuid") or "").strip()
        for device in gpu.iterfind("mig_devices/mig_device"):
            total = _mib(device.findtext("fb_memory_usage/total") or "")
            free = _mib(device.findtext("fb_memory_usage/free") or "")
            if total:
                parts.append(Part(uuid, total, total if free is None else free))
    return parts


def visible(rows: Sequence[Row], parts: Sequence[Part], setting: str | None) -> list[Found]:
    """The devices in CUDA's order; those that CUDA_VISIBLE_DEVICES hides come last and say so.

    A GPU in MIG mode is only its parts, and of all parts CUDA uses the first one in a process.
    """
    devices = [(row, one) for row in rows for one in _devices(row, parts)]
    if setting is None:
        return [one for _, one in devices]
    chosen = [word.strip() for word in setting.split(",") if word.strip()]
    shown = [one for word in chosen for row, one in devices if _named(row, word)]
    why = f"hidden by CUDA_VISIBLE_DEVICES={setting[:80]}"
    hidden = [replace(one, hidden=why) for row, one in devices
              if not any(_named(row, word) for word in chosen)]  # fmt: skip
    return shown + hidden


def _devices(row: Row, parts: Sequence[Part]) -> list[Found]:
    if not row.mig:
        return [row.found]
    own = [part for part in parts if part.gpu_uuid == row.uuid]
    if not own:
        return [replace(row.found, hidden="it is in MIG mode and has no MIG device to use")]
    return [
        Found("cuda", f"{row.name} MIG", part.total_bytes, part.free_bytes, SOURCE) for part in own
    ]


def _named(row: Row, word: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES means this GPU: its index, or how its UUID begins.
    (The UUID of a MIG device means some part of a GPU in MIG mode.)"""
    return word == row.index or row.uuid.startswith(word) or (row.mig and word.startswith("MIG-"))
