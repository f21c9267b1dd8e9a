"""Numbers as people read them."""

from __future__ import annotations

MIB = 1 << 20


def megabytes(count_bytes: int) -> str:
    """`7.1 MiB`, `4,108 MiB`."""
    size = count_bytes / MIB
    return f"{size:.1f} MiB" if size < 100 else f"{size:,.0f} MiB"


def tokens(count: int) -> str:
    """`1 token`, `1,024 tokens`."""
    return f"{count:,} token" + ("" if count == 1 else "s")
