"""Reads a GGUF header value by value: every length is checked against what is left of the file."""

from __future__ import annotations

import struct
from typing import Literal

from okno.core.errors import ModelUnusable
from okno.inspect.source import FIRST_BLOCK_BYTES, LAST_BLOCK_BYTES, Source

MAX_KEPT_BYTES = 32 * 1024 * 1024  # of names and values; a real header keeps below 1 MiB
MAX_STRINGS = 4_000_000  # in all arrays together; the largest vocabularies have 300,000
ByteOrder = Literal["<", ">"]


class Cursor:
    """A position in a file, read forward in blocks that grow.

    Every method raises ModelUnusable when the file does not hold what is asked.
    """

    def __init__(self, source: Source, order: ByteOrder = "<") -> None:
        self.order: ByteOrder = order
        self._source = source
        self._block = b""
        self._start = 0  # of the block in the file
        self._at = 0  # in the block
        self._ahead = FIRST_BLOCK_BYTES
        self._kept_bytes = 0
        self._strings_left = MAX_STRINGS

    @property
    def offset(self) -> int:
        return self._start + self._at

    @property
    def left_bytes(self) -> int:
        return self._source.size_bytes - self.offset

    def number(self, code: str) -> int:
        """An integer of the struct code `code`."""
        value = self.value(code)
        assert isinstance(value, int)
        return value

    def value(self, code: str) -> int | float | bool:
        layout = self.order + code
        found: int | float | bool = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return found

    def values(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        layout = f"{self.order}{count}{code}"
        self.keep(8 * count)
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def length(self, least_bytes: int = 1) -> int:
        """A count of things that take at least `least_bytes` each, so that they fit the file."""
        count = self.number("Q")
        if count * least_bytes > self.left_bytes:
            raise self.unsound(
                f"announces {count} entries where only {self.left_bytes} bytes follow"
            )
        return count

    def text(self, most_bytes: int) -> bytes:
        """A string of at most `most_bytes`, kept."""
        count = self.length()
        if count > most_bytes:
            raise self.unsound(f"has a name or text of {count} bytes ({most_bytes} are possible)")
        self.keep(count)
        return self.take(count)

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._block):
            self._fill(count)
        data = self._block[self._at : self._at + count]
        self._at += count
        return data

    def skip(self, count: int) -> None:
        """Go on by `count` bytes without reading them."""
        if count > self.left_bytes:
            raise self.unsound(f"ends {count - self.left_bytes} bytes early")
        if self._at + count <= len(self._block):
            self._at += count
            return
        self._start, self._block, self._at = self.offset + count, b"", 0

    def skip_strings(self, count: int) -> None:
        """Go on by `count` strings: the lengths are read, the texts are not kept."""
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.unsound(f"lists more than {MAX_STRINGS} strings")
        while count:
            count -= self._skip_strings_in_block(count)
            if count:
                self.skip(self.length())
                count -= 1

    def strings(self, count: int) -> list[bytes]:
        """The next `count` strings, kept."""
        start = self.offset
        self.skip_strings(count)
        self.keep(self.offset - start)
        data = self._source.read(start, self.offset - start)
        return _strings_in(data, count, struct.Struct(self.order + "Q"))

    def keep(self, count: int) -> None:
        """Account for memory that the caller keeps."""
        self._kept_bytes += count
        if self._kept_bytes > MAX_KEPT_BYTES:
            raise self.unsound(f"has more than {MAX_KEPT_BYTES >> 20} MiB of names and values")

    def unsound(self, what: str) -> ModelUnusable:
        return ModelUnusable(
            f"{self._source.where} {what} (near byte {self.offset}), so it is not a sound GGUF "
            "file. Was the download cut short? Get it again, or choose another file."
        )

    def _skip_strings_in_block(self, count: int) -> int:
        """Skip those of the next `count` strings that lie wholly in the block; how many."""
        unpack = struct.Struct(self.order + "Q").unpack_from
        block, at, last = self._block, self._at, len(self._block) - 8
        skipped = 0
        while skipped < count and at <= last:
            after: int = at + 8 + unpack(block, at)[0]
            if after > last + 8:
                break
            at = after
            skipped += 1
        self._at = at
        return skipped

    def _fill(self, count: int) -> None:
        """Make the next `count` bytes (and some more) the block."""
        if count > self.left_bytes:
            raise self.unsound(f"ends {count - self.left_bytes} bytes early")
        start = self.offset
        self._block = self._source.read(start, min(self.left_bytes, max(count, self._ahead)))
        self._start, self._at = start, 0
        self._ahead = min(2 * self._ahead, LAST_BLOCK_BYTES)
        if len(self._block) < count:
            raise self.unsound("became shorter while it was read")


def _strings_in(data: bytes, count: int, length: struct.Struct) -> list[bytes]:
    """The `count` strings that `data` consists of, each after its length."""
    found, at = [], 0
    for _ in range(count):
        start = at + length.size
        at = start + length.unpack_from(data, at)[0]
        found.append(data[start:at])
    return found
