"""The CPU: its name, cores, instructions and caches, on Linux, macOS and Windows."""

from __future__ import annotations

import psutil

from okno.core.machine import Cpu
from okno.inspect.cpu import usable_cores
from okno.inspect.hardware import processor_linux, processor_mac, processor_windows
from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import CpuFacts

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "x64": "x86_64"}
PROBES = {
    "Linux": processor_linux.find,
    "Darwin": processor_mac.find,
    "Windows": processor_windows.find,
}


def find_cpu(host: Host) -> tuple[Cpu, tuple[str, ...]]:
    """The CPU, and what could not be read of it."""
    notes: tuple[str, ...] = ()
    facts = CpuFacts()
    try:
        facts = PROBES.get(host.os, lambda _: CpuFacts())(host)
    except NotReadable as error:
        notes = (f"CPU not readable: {error}.",)
    return as_cpu(facts, host.machine), notes


def as_cpu(facts: CpuFacts, machine: str) -> Cpu:
    """The facts, with what psutil counts where a probe was silent."""
    logical = facts.logical_cores or psutil.cpu_count() or 1
    physical = facts.physical_cores or psutil.cpu_count(logical=False) or logical
    architecture = machine.lower()
    return Cpu(
        name=facts.name or "unknown",
        architecture=ARCHITECTURES.get(architecture, architecture),
        physical_cores=physical, logical_cores=logical, usable_cores=min(usable_cores(), logical),
        simd=facts.simd, l1d_bytes=facts.l1d_bytes, l2_bytes=facts.l2_bytes,
        l3_bytes=facts.l3_bytes, numa_nodes=facts.numa_nodes,
    )  # fmt: skip
