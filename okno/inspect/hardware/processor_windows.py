"""The CPU on Windows: PowerShell's CIM, or wmic where PowerShell is not there."""

from __future__ import annotations

import json

from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import CpuFacts, whole

PROPERTIES = "Name,NumberOfCores,NumberOfLogicalProcessors,L2CacheSize,L3CacheSize"
POWERSHELL = (
    "powershell", "-NoProfile", "-NonInteractive", "-Command",
    f"Get-CimInstance Win32_Processor | Select-Object {PROPERTIES} | ConvertTo-Json -Compress",
)  # fmt: skip
WMIC = ("wmic", "cpu", "get", PROPERTIES, "/format:list")


def find(host: Host) -> CpuFacts:
    said = host.call(POWERSHELL)
    if said is not None:
        return parse_cim(said)
    said = host.call(WMIC)
    if said is None:
        raise NotReadable("there is neither powershell nor wmic")
    return parse_wmic(said)


def parse_cim(text: str) -> CpuFacts:
    """One object, or a list with one for each socket. Raises NotReadable."""
    try:
        said = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        raise NotReadable("PowerShell printed something other than JSON") from None
    sockets = said if isinstance(said, list) else [said]
    return _summed([socket for socket in sockets if isinstance(socket, dict)])


def parse_wmic(text: str) -> CpuFacts:
    """`Name=value` lines, sockets one after the other."""
    sockets: list[dict[str, object]] = []
    for line in text.replace("\x00", "").splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals:
            continue
        if not sockets or name in sockets[-1]:
            sockets.append({})
        sockets[-1][name] = value
    return _summed(sockets)


def _summed(sockets: list[dict[str, object]]) -> CpuFacts:
    """Cache sizes are told in KiB."""
    if not sockets:
        raise NotReadable("Windows lists no processor")

    def total(name: str) -> int:
        return sum(whole(str(socket.get(name) or "")) for socket in sockets)

    return CpuFacts(
        name=" ".join(str(sockets[0].get("Name") or "").split()),
        physical_cores=total("NumberOfCores"),
        logical_cores=total("NumberOfLogicalProcessors"),
        l2_bytes=total("L2CacheSize") * 1024,
        l3_bytes=total("L3CacheSize") * 1024,
    )
