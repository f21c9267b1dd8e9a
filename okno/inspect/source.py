"""Where the bytes of a model file are: a file here, or one behind HTTP. Reads are bounded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.files import open_file

MAX_READ_BYTES = 256 * 1024 * 1024  # of one file's header; the largest known have 20 MiB
FIRST_BLOCK_BYTES = 256 * 1024
LAST_BLOCK_BYTES = 8 * 1024 * 1024


class Source(Protocol):
    """A file of known size. name: without folders. where: for messages."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes:
        """The bytes from `offset`: `count` of them, fewer only at the end of the file.

        Raises ModelUnusable when the file changed meanwhile or too much was read.
        """
        ...

    def sibling(self, name: str) -> Source:
        """The file `name` in the same folder. Raises ModelNotFound."""
        ...

    def close(self) -> None: ...


class LocalSource:
    """A file on this machine.

    Raises ModelNotFound when it is not there, ModelUnusable when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._file = _open(path)
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def where(self) -> str:
        return str(self._path)

    def read(self, offset: int, count: int) -> bytes:
        self._read_bytes += count
        if self._read_bytes > MAX_READ_BYTES:
            raise too_much_read(self.where)
        try:
            self._file.seek(offset)
            return self._file.read(count)
        except OSError as error:
            raise ModelUnusable(f"{self.where} cannot be read: {error.strerror}.") from None

    def sibling(self, name: str) -> LocalSource:
        return LocalSource(self._path.with_name(name))

    def close(self) -> None:
        self._file.close()


def too_much_read(where: str) -> ModelUnusable:
    return ModelUnusable(
        f"The header of {where} is larger than {MAX_READ_BYTES >> 20} MiB, more than any real "
        "model's. The file is damaged or made to mislead; get it again from its publisher.",
        limit_bytes=MAX_READ_BYTES,
    )


def _open(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except FileNotFoundError:
        raise ModelNotFound(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelUnusable(f"{path} cannot be read: {reason}.") from None
