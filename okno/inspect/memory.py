"""How much memory a new process may still take: the machine's, and that of every cgroup above us.

`free_memory` runs (reads files), everything else parses text. Sources: proc(5) MemAvailable,
kernel docs cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

Read = Callable[[PurePosixPath], str | None]

PROC = PurePosixPath("/proc")
OWN_MEMORY = ("RssAnon", "RssShmem", "VmSwap")
V1_UNLIMITED_BYTES = 1 << 60  # v1 writes "no limit" as a number near 2^63, rounded to pages


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Bytes that can be taken now, and what bounds them: `machine`, a cgroup's folder, or a
    process limit's name (`RLIMIT_AS`)."""

    free_bytes: int
    bound_by: str


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """Where a cgroup hierarchy with a memory controller is mounted. root: the cgroup that shows
    at the mount point (`/` except in containers)."""

    version: int
    root: PurePosixPath
    mount_point: PurePosixPath


def free_memory() -> FreeMemory:
    """The smallest of what the machine, each enclosing cgroup and the limits of this process still
    allow."""
    return memory_from(read_text) or FreeMemory(psutil.virtual_memory().available, "machine")


def read_text(path: PurePosixPath) -> str | None:
    """The text of `path`; None if it is not there or may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def memory_from(read: Read) -> FreeMemory | None:
    """The answer from files as `read` gives them; None without a Linux /proc/meminfo."""
    available = parse_meminfo(read(PROC / "meminfo") or "")
    if available is None:
        return None
    bounds = [FreeMemory(available, "machine"), *_cgroup_bounds(read), *_process_bounds(read)]
    return min(bounds, key=lambda bound: bound.free_bytes)


def memory_limit(read: Read) -> int | None:
    """The tightest limit of the cgroups above us, in bytes; None without one."""
    return min(_cgroup_limits(read), default=None)


def parse_meminfo(text: str) -> int | None:
    """MemAvailable in bytes."""
    return parse_meminfo_fields(text).get("MemAvailable")


def parse_meminfo_fields(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes by name."""
    fields = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        number = _number(value.split()[0] if value.strip() else None)
        if number is not None:
            fields[key] = number * 1024
    return fields


def parse_cgroups(text: str, controller: str = "memory") -> dict[int, PurePosixPath]:
    """/proc/self/cgroup: cgroup version to our path in the hierarchy that may have `controller`."""
    paths: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if number == "0" and not controllers and colon:
            paths[2] = PurePosixPath(path)
        elif controller in controllers.split(","):
            paths[1] = PurePosixPath(path)
    return paths


def parse_mounts(text: str, controller: str = "memory") -> list[CgroupMount]:
    """/proc/self/mountinfo: the mounts of cgroup hierarchies that may have `controller`."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, mount_point = (PurePosixPath(_unescaped(part)) for part in fields[3:5])
        if kind[0] == "cgroup2":
            mounts.append(CgroupMount(2, root, mount_point))
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            mounts.append(CgroupMount(1, root, mount_point))
    return mounts


def free_in_v2(limit: str | None, high: str | None, current: str | None, stat: str) -> int | None:
    """Free bytes from memory.max, memory.high, memory.current and memory.stat; None without a
    limit. Clean file pages count as free: the kernel takes them back before it refuses."""
    limits = [number for number in map(_number, (limit, high)) if number is not None]
    used_bytes = _number(current)
    if not limits or used_bytes is None:
        return None
    counts = parse_stat(stat)
    cache = counts.get("inactive_file", 0) + counts.get("active_file", 0)
    return max(0, min(limits) - max(0, used_bytes - cache))


def free_in_v1(limit: str | None, usage: str | None, stat: str) -> int | None:
    """The same from memory.limit_in_bytes, memory.usage_in_bytes and memory.stat of cgroup v1."""
    limit_bytes, used_bytes = _number(limit), _number(usage)
    if limit_bytes is None or used_bytes is None or limit_bytes >= V1_UNLIMITED_BYTES:
        return None
    counts = parse_stat(stat)
    cache = counts.get("total_inactive_file", 0) + counts.get("total_active_file", 0)
    return max(0, limit_bytes - max(0, used_bytes - cache))


def parse_stat(text: str) -> dict[str, int]:
    """memory.stat: one `name value` a line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def ancestors(mount: CgroupMount, path: PurePosixPath) -> Iterator[PurePosixPath]:
    """The folders of our cgroup and of all above it that the mount shows, innermost first.

    A path outside the mount's root (a container whose namespace hides it) leaves the mount point.
    """
    inside = path.relative_to(mount.root) if path.is_relative_to(mount.root) else PurePosixPath()
    folder = mount.mount_point / inside if ".." not in inside.parts else mount.mount_point
    yield folder
    while folder != mount.mount_point:
        folder = folder.parent
        yield folder


def cgroup_folders(read: Read, controller: str = "memory") -> Iterator[tuple[int, PurePosixPath]]:
    """Version and folder of every cgroup above us that shows and may limit `controller`."""
    paths = parse_cgroups(read(PROC / "self/cgroup") or "", controller)
    for mount in parse_mounts(read(PROC / "self/mountinfo") or "", controller):
        if mount.version in paths:
            for folder in ancestors(mount, paths[mount.version]):
                yield mount.version, folder


def _cgroup_bounds(read: Read) -> Iterator[FreeMemory]:
    for version, folder in cgroup_folders(read):
        free_bytes = _free_in(version, folder, read)
        if free_bytes is not None:
            yield FreeMemory(free_bytes, str(folder))


def _cgroup_limits(read: Read) -> Iterator[int]:
    for version, folder in cgroup_folders(read):
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        for text in (read(folder / name) for name in names):
            limit = _number(text)
            if limit is not None and limit < V1_UNLIMITED_BYTES:
                yield limit


def _free_in(version: int, folder: PurePosixPath, read: Read) -> int | None:
    def text(name: str) -> str | None:
        return read(folder / name)

    stat = text("memory.stat") or ""
    if version == 2:
        return free_in_v2(text("memory.max"), text("memory.high"), text("memory.current"), stat)
    return free_in_v1(text("memory.limit_in_bytes"), text("memory.usage_in_bytes"), stat)


def _process_bounds(read: Read) -> Iterator[FreeMemory]:
    """Limits of processes (ulimit -v, ulimit -d), which a child inherits: what they leave beyond
    what this process uses itself. A child of ours starts smaller, so the bound is on the safe
    side."""
    limits = parse_limits(read(PROC / "self/limits") or "")
    used = parse_meminfo_fields(read(PROC / "self/status") or "")
    for name, limit, usage in (
        ("RLIMIT_AS", "Max address space", "VmSize"),
        ("RLIMIT_DATA", "Max data size", "VmData"),
    ):
        if limit in limits:
            yield FreeMemory(max(0, limits[limit] - used.get(usage, 0)), name)


def parse_limits(text: str) -> dict[str, int]:
    """/proc/self/limits: the soft limits in bytes by name; unlimited ones are left out."""
    limits = {}
    for line in text.splitlines():
        words = line.split()
        soft = _number(words[-3]) if len(words) > 3 and words[-1] == "bytes" else None
        if soft is not None:
            limits[" ".join(words[:-3])] = soft
    return limits


def _number(text: str | None) -> int | None:
    """A file that holds one number; None for `max`, or no file."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _unescaped(text: str) -> str:
    r"""mountinfo writes space, tab, newline and backslash as \040, \011, \012, \134."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{code}", character)
    return text


def own_bytes() -> int:
    """What this process holds that is no page of a file: gone when it ends, and not counted as
    free before. Linux's RssAnon, RssShmem and what of them is swapped out; elsewhere all."""
    status = read_text(PROC / "self/status")
    return parse_own(status) if status else int(psutil.Process().memory_info().rss)


def parse_own(status: str) -> int:
    """Bytes, from the text of /proc/PID/status."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(lines.get(key, "0 kB").split()[0]) for key in OWN_MEMORY) * 1024
