"""Lists of texts in a GGUF file's header (tokens, merges), which okno/inspect/gguf.py skips."""

from __future__ import annotations

from okno.inspect.gguf import ARRAY, MAX_KEY_BYTES, STRING, pair_places
from okno.inspect.gguf_cursor import Cursor
from okno.inspect.source import Source


def texts_of(source: Source, key: str) -> list[bytes]:
    """The texts that the file lists under `key`; none where it has no such list.

    Raises ModelUnusable for a file that is not sound.
    """
    place = pair_places(source).get(key)
    if place is None:
        return []
    cursor = Cursor(source)
    cursor.skip(place[0])
    cursor.text(MAX_KEY_BYTES)
    if cursor.number("I") != ARRAY or cursor.number("I") != STRING:
        return []
    return cursor.strings(cursor.length(least_bytes=8))
