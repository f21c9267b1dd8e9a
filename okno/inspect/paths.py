"""Paths as people write them: what is there, with a typed error where that cannot be known."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Literal

from okno.core.errors import ModelUnusable

Kind = Literal["file", "folder", "other"]
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def kind_at(path: Path) -> Kind | None:
    """What `path` leads to, links followed; None for nothing.

    Raises ModelUnusable when that may not be known: a folder on the way is closed, links lead in a
    circle, the disk does not answer.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # characters that no path has
        return None
    except OSError as error:
        if error.errno in NOTHING_THERE:
            return None
        raise cannot_be_read(path, error) from None
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted. Raises ModelUnusable when it may not be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise cannot_be_read(folder, error) from None


def cannot_be_read(path: Path, error: OSError) -> ModelUnusable:
    return ModelUnusable(f"{path} cannot be read: {error.strerror or error}.")
