"""A what-if as people write it: the words of flags, or of a request's fields."""

from __future__ import annotations

from collections.abc import Mapping

from okno.core.errors import BadSetting
from okno.inspect.hardware.overrides import Overrides
from okno.inspect.hardware.quantities import parse_bandwidth, parse_bytes

FIELDS = ("memory", "device", "bandwidth", "cores", "free")
MAX_CORES = 4096


def overrides_from(asked: Mapping[str, str | None], *, prefix: str = "--") -> Overrides:
    """The overrides in FIELDS of `asked`; others are not looked at, None and absent are as
    measured. Raises BadSetting that names the field at fault, with `prefix` before it."""
    memory, bandwidth, free = asked.get("memory"), asked.get("bandwidth"), asked.get("free")
    cores, device = asked.get("cores"), asked.get("device")
    if device is not None and not device.strip():
        name = f"{prefix}device"
        raise BadSetting(f"{name} is empty; name a device or leave it out.", param=name)
    return Overrides(
        memory_bytes=None if memory is None else parse_bytes(memory, f"{prefix}memory"),
        device=device,
        bandwidth_bytes_s=(
            None if bandwidth is None else parse_bandwidth(bandwidth, f"{prefix}bandwidth")
        ),
        cores=None if cores is None else _cores(cores, f"{prefix}cores"),
        free_bytes=None if free is None else parse_bytes(free, f"{prefix}free"),
    )


def _cores(text: str, name: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_CORES):
        raise BadSetting(
            f"{name} {text[:20]!r}: give a whole number from 1 to {MAX_CORES:,}.", param=name
        )
    return int(text)
