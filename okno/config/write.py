"""Write a settings file so that it is never seen half written."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from okno.config.file import printable
from okno.core.errors import BadSetting

NEW_FILE_MODE = 0o666


def write_file(path: Path, text: str) -> None:
    """Replace (or make) the file at `path`, through a link if it is one; permissions are kept.

    Raises BadSetting when the folder or the file cannot be written.
    """
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "it is write-protected")
        _replace(target, text.encode("utf-8"))
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadSetting(f"{printable(str(path))} cannot be written: {reason}.") from None


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _mode(target: Path) -> int:
    """The permissions of the file that is replaced; of a new one, what the umask leaves."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return NEW_FILE_MODE & ~mask
