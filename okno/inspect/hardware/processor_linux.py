"""The CPU on Linux: /proc/cpuinfo, sysfs, and lscpu where they leave something open.

/proc/cpuinfo of ARM has no name, only numbers that lscpu knows how to read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import CpuFacts, kernel_simd, whole

CPUINFO = PurePosixPath("/proc/cpuinfo")
CPUS = PurePosixPath("/sys/devices/system/cpu")
NODES_ONLINE = PurePosixPath("/sys/devices/system/node/online")
NAME_KEYS = ("model name", "cpu model", "cpu", "uarch")
FLAG_KEYS = ("flags", "Features", "features", "isa")
UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SIZE = re.compile(r"([\d.]+)\s*([KMG]?)(?:i?B)?\b(?:\s*\((\d+) instances?\))?")


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache. shared: the CPUs it serves, as sysfs lists them."""

    level: int
    kind: str
    n_bytes: int
    shared: str


def find(host: Host) -> CpuFacts:
    """Raises NotReadable when the files say nothing at all and lscpu fails."""
    facts = parse_cpuinfo(host.read(CPUINFO) or "")
    facts = with_caches(facts, read_caches(host))
    facts = replace(facts, numa_nodes=max(1, count_list(host.read(NODES_ONLINE) or "")))
    if facts.name and facts.l2_bytes:
        return facts
    try:
        said = host.call(["lscpu", "-B", "-J"])
        return merged(facts, parse_lscpu(said)) if said is not None else facts
    except NotReadable:
        if facts == CpuFacts():
            raise
        return facts


def parse_cpuinfo(text: str) -> CpuFacts:
    """/proc/cpuinfo: one block per logical CPU."""
    blocks = [dict(_pairs(block)) for block in text.split("\n\n") if block.strip()]
    cpus = [block for block in blocks if "processor" in block]
    merged_keys = {key: value for block in reversed(blocks) for key, value in block.items()}
    name = next((merged_keys[key] for key in NAME_KEYS if merged_keys.get(key)), "")
    flags = next((merged_keys[key] for key in FLAG_KEYS if key in merged_keys), "")
    cores = {
        (cpu.get("physical id", "0"), cpu["core id"]) for cpu in cpus if "core id" in cpu
    }  # fmt: skip
    return CpuFacts(
        name=" ".join(name.split()), physical_cores=len(cores), logical_cores=len(cpus),
        simd=kernel_simd(re.split(r"[\s_]+", flags) if "rv64" in flags else flags.split()),
    )  # fmt: skip


def _pairs(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()


def read_caches(host: Host) -> list[Cache]:
    """Every cache once, however many CPUs share it."""
    found: dict[tuple[int, str, str], Cache] = {}
    for cpu in host.list_folder(CPUS):
        if not re.fullmatch(r"cpu\d+", cpu):
            continue
        for index in host.list_folder(CPUS / cpu / "cache"):
            folder = CPUS / cpu / "cache" / index
            cache = _cache(*((host.read(folder / name) or "").strip() for name in (
                "level", "type", "size", "shared_cpu_list")))  # fmt: skip
            if cache is not None:
                found.setdefault((cache.level, cache.kind, cache.shared or cpu), cache)
    return list(found.values())


def _cache(level: str, kind: str, size: str, shared: str) -> Cache | None:
    n_bytes = parse_size(size)
    return Cache(whole(level), kind, n_bytes, shared) if whole(level) and n_bytes else None


def with_caches(facts: CpuFacts, caches: list[Cache]) -> CpuFacts:
    """The sums by level; instruction caches are no help to us."""

    def total(level: int) -> int:
        return sum(c.n_bytes for c in caches if c.level == level and c.kind != "Instruction")

    return replace(facts, l1d_bytes=total(1), l2_bytes=total(2), l3_bytes=total(3))


def parse_size(text: str) -> int:
    """`48K`, `1.5 MiB`, `98304 (2 instances)`: bytes; 0 when it is no size.

    lscpu from util-linux 2.34 on gives the sum over all cores, sysfs the size of one cache.
    """
    match = SIZE.match(text.strip())
    if match is None:
        return 0
    try:
        return int(float(match[1]) * UNITS[match[2]])
    except (ValueError, OverflowError):
        return 0


def count_list(text: str) -> int:
    """How many numbers a sysfs list such as `0-3,8` has; 0 when it is none."""
    count = 0
    for part in text.strip().split(","):
        numbers = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if numbers is None:
            return 0
        count += max(0, int(numbers[2] or numbers[1]) - int(numbers[1]) + 1)
    return count


def parse_lscpu(text: str) -> CpuFacts:
    """`lscpu -J`, flat (util-linux before 2.38) or nested; CPUs with several kinds of cores have a
    `Model name` for each. Raises NotReadable."""
    try:
        pairs = list(_lscpu_fields(json.loads(text)["lscpu"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotReadable("lscpu printed something other than its JSON") from None
    fields = dict(pairs)
    return CpuFacts(
        name=" + ".join(value for name, value in pairs if name == "Model name"),
        physical_cores=_lscpu_cores(pairs),
        logical_cores=whole(fields.get("CPU(s)")),
        simd=kernel_simd(fields.get("Flags", "").split()),
        l1d_bytes=parse_size(_cache_field(fields, "L1d")),
        l2_bytes=parse_size(_cache_field(fields, "L2")),
        l3_bytes=parse_size(_cache_field(fields, "L3")),
        numa_nodes=whole(fields.get("NUMA node(s)")) or 1,
    )


def _lscpu_cores(pairs: list[tuple[str, str]]) -> int:
    """Cores of each kind in each socket, or cluster where that is unknown."""
    for group in ("socket", "cluster"):
        each = [whole(value) for name, value in pairs if name == f"Core(s) per {group}"]
        groups = [whole(value) for name, value in pairs if name == f"{group.capitalize()}(s)"]
        if cores := sum(n * m for n, m in zip(each, groups, strict=False)):
            return cores
    return 0


def _cache_field(fields: dict[str, str], level: str) -> str:
    return fields.get(f"{level} cache") or fields.get(level, "")


def _lscpu_fields(entries: object) -> Iterator[tuple[str, str]]:
    if not isinstance(entries, list):
        raise TypeError("a list of fields")
    for entry in entries:
        if isinstance(entry.get("data"), str):
            yield str(entry["field"]).rstrip(":"), entry["data"]
        if "children" in entry:
            yield from _lscpu_fields(entry["children"])


def merged(first: CpuFacts, second: CpuFacts) -> CpuFacts:
    """What `first` says, and what only `second` says."""
    return CpuFacts(
        name=first.name or second.name,
        physical_cores=first.physical_cores or second.physical_cores,
        logical_cores=first.logical_cores or second.logical_cores,
        simd=first.simd or second.simd,
        l1d_bytes=first.l1d_bytes or second.l1d_bytes,
        l2_bytes=first.l2_bytes or second.l2_bytes,
        l3_bytes=first.l3_bytes or second.l3_bytes,
        numa_nodes=max(first.numa_nodes, second.numa_nodes),
    )
