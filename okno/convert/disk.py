"""Room on the disk, asked for before it is needed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from okno.core.errors import DiskFull

SPARE_BYTES = 64 * 1024 * 1024  # left to the system, and for the bookkeeping of its files
MIB = 1024 * 1024
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def check_room(
    folder: Path, needed_bytes: int, what: str, *, free_bytes: int | None = None
) -> None:
    """Raises DiskFull when `folder` (which need not exist yet) has no room for `needed_bytes` more.

    what: what they are, for the message. free_bytes: instead of asking the system.
    """
    free = free_bytes_at(folder) if free_bytes is None else free_bytes
    if needed_bytes + SPARE_BYTES > free:
        raise DiskFull(
            f"{what} needs {needed_bytes // MIB:,} MiB in {folder}, and {free // MIB:,} MiB are "
            f"free there, of which {SPARE_BYTES // MIB} are left alone. Make room (`okno models` "
            "shows what is here, `okno rm NAME` removes it), or use a folder on another disk.",
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


def free_bytes_at(folder: Path) -> int:
    """What a user may still write on the disk of `folder`, or of the nearest folder above it."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def no_room(error: OSError, what: str, folder: Path) -> DiskFull | None:
    """The typed error when `error` says that the disk is full; None when it says something else."""
    if error.errno not in NO_ROOM:
        return None
    return DiskFull(
        f"The disk of {folder} became full during {what}. Make room (`okno models`, `okno rm "
        "NAME`) and run the same command again.",
        free_bytes=free_bytes_at(folder),
    )
