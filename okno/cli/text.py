"""Numbers and sentences as people read them."""

from __future__ import annotations

import shutil
import sys
import textwrap

MIB = 1 << 20


def size(count_bytes: int) -> str:
    """`7.1 MiB`, `512 MiB`, `4.0 GiB`."""
    mib = count_bytes / MIB
    if mib >= 1024:
        return f"{mib / 1024:,.1f} GiB"
    return f"{mib:.1f} MiB" if mib < 100 else f"{mib:.0f} MiB"


def tokens(count: int) -> str:
    """`1 token`, `1,024 tokens`."""
    return f"{count:,} token" + ("" if count == 1 else "s")


def for_stderr(text: str) -> str:
    """`text` with its lines broken at words when stderr is a terminal; as it is for a log."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_filled(line, width) for line in text.split("\n"))


def _filled(line: str, width: int) -> str:
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
