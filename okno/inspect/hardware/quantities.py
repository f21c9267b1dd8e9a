"""Sizes and rates as people type them: `8GB`, `12000MiB`, `300GB/s`."""

from __future__ import annotations

import re
from fractions import Fraction

from okno.core.errors import BadSetting

QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z/]*)")
PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
MAX_BYTES = 1 << 60


def parse_bytes(text: str, name: str = "the size") -> int:
    """Bytes of a memory size. `GB` and `GiB` (and `G`) both mean 2^30: memory is sold and reported
    in binary units, an "8 GB" card has 8 GiB. A number alone is refused: it could be anything.

    Raises BadSetting; `name` is what the message calls it (`--memory`).
    """
    amount, unit = _split(text, name, "8GB, 8GiB, 12000MiB or 512MB")
    match = re.fullmatch(r"([kmgt]?)(i?b?)", unit)
    if not unit or match is None or match[2] == "i":
        raise _refused(text, name, "a number with MB, GB or TB (MiB, GiB, TiB)", "8GB or 12000MiB")
    value = int(amount * 1024 ** PREFIXES[match[1]])
    return _checked(value, text, name, "8GB")


def parse_bandwidth(text: str, name: str = "the bandwidth") -> float:
    """Bytes/s of a memory bandwidth, in decimal units as data sheets give it: `300GB/s` is 3e11.
    `GB`, `GB/s`, `GBps` and `GiB/s` are understood.

    Raises BadSetting; `name` is what the message calls it (`--bandwidth`).
    """
    example = "300GB/s or 1.6TB/s"
    amount, unit = _split(text, name, example)
    match = re.fullmatch(r"([kmgt]?)(i?)b(?:/s|ps)?", unit)
    if match is None:
        raise _refused(text, name, "a number with GB/s or TB/s", example)
    base = 1024 if match[2] else 1000
    value = amount * base ** PREFIXES[match[1]]
    return float(_checked(int(value), text, name, example))


def _split(text: str, name: str, example: str) -> tuple[Fraction, str]:
    match = QUANTITY.fullmatch(text.strip())
    if match is None or not text.isascii():
        raise _refused(text, name, "a number with a unit", example)
    return Fraction(match[1]), match[2].lower()


def _checked(value: int, text: str, name: str, example: str) -> int:
    if not 0 < value <= MAX_BYTES:
        raise _refused(text, name, "more than 0 and at most 1,048,576 TB", example)
    return value


def _refused(text: str, name: str, wanted: str, example: str) -> BadSetting:
    shown = text if text.isprintable() else ascii(text)
    shown = shown[:40] + "…" if len(shown) > 40 else shown
    return BadSetting(f"{name} {shown!r}: give {wanted}, such as {example}.", param=name)
