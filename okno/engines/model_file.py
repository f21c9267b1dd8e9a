"""Which file a model was loaded from: a replaced file is another model."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Tells whether a file is still the same one; all zero for one that is not there."""

    device: int = 0
    inode: int = 0
    size: int = 0
    modified_ns: int = 0

    @classmethod
    def of(cls, path: str) -> Fingerprint:
        """What the file system says of `path` now."""
        try:
            found = os.stat(path)
        except OSError:
            return cls()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
