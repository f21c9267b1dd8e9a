"""`--lora [NAME=]PATH[:SCALE]`: adapters as they are written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from okno.core.adapter import Adapter

SEPARATORS = ("/", "\\")


def asked_adapters(texts: Iterable[str]) -> tuple[Adapter, ...]:
    """The adapters of these texts. Raises ValueError for a text that says none, or two of one
    name."""
    found = tuple(asked_adapter(text) for text in texts)
    for name, count in Counter(adapter.name for adapter in found).items():
        if count > 1:
            raise ValueError(
                f"{count} adapters are called {name[:80]!r}; give each a name of its own, as in "
                f"one={found[0].path[:80]}"
            )
    return found


def asked_adapter(text: str) -> Adapter:
    """Without a name it is called after its file. Raises ValueError."""
    name, path = _named(text) if text.isprintable() else ("", "")
    path, scale = _scaled(path)
    if not path:
        raise ValueError(f"{text[:80]!r} names no adapter; write NAME=PATH:SCALE, or just PATH")
    return Adapter(name or PurePath(path).name.removesuffix(".gguf") or path, path, scale)


def checked_adapters(texts: tuple[str, ...]) -> tuple[str, ...]:
    """`texts`, when they say adapters (for the settings tree)."""
    asked_adapters(texts)
    return texts


def _named(text: str) -> tuple[str, str]:
    """What stands before a first `=` that is no part of a path, and the rest."""
    name, equals, path = text.partition("=")
    if not equals or any(separator in name for separator in SEPARATORS):
        return "", text
    return name.strip(), path


def _scaled(text: str) -> tuple[str, float]:
    """The path and the number after its last colon, 1 without one. `C:\\x` is a path."""
    path, colon, number = text.rpartition(":")
    in_path = any(separator in number for separator in SEPARATORS) or number.endswith(".gguf")
    if not colon or in_path:
        return text.strip(), 1.0
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise ValueError(
            f"the scale of {path[:80]!r} is {number[:40]!r}; give a number, as in {path[:80]}:0.5"
        )
    return path.strip(), scale
