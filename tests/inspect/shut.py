"""A folder that may not be read, for tests that may run as root too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

NOBODY = 65534


@contextmanager
def shut_folder(*names: str, content: bytes = b"GGUF....", mode: int = 0) -> Iterator[Path]:
    """A folder `shut` of that mode with these files in it, in a folder of its own; root is nobody
    meanwhile."""
    with TemporaryDirectory() as above:
        folder = Path(above) / "shut"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(content)
        Path(above).chmod(0o755)
        folder.chmod(mode)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)
