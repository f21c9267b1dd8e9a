"""The header of a GGUF file: its values and its table of tensors. Never trusts the file.

Format: ggml's docs/gguf.md; the checks are those of the engine (ggml/src/gguf.cpp,
gguf_init_from_reader), so that what is accepted here loads there, little-endian files at least.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from okno.core.errors import ModelNotFound, ModelUnusable, OknoError
from okno.core.header import TensorInfo
from okno.inspect.gguf_cursor import ByteOrder, Cursor
from okno.inspect.gguf_types import BY_NUMBER, FILE_TYPES, tensor_bytes
from okno.inspect.source import LocalSource, Source

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_PAIRS = 65_536
MAX_TENSORS = 65_536
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES = 63  # GGML_MAX_NAME with its end
MAX_KEY_BYTES = 65_535
MAX_TEXT_BYTES = 1 << 20  # chat templates have up to 100 KiB; longer texts are not kept
MAX_KEPT_ITEMS = 1024  # of an array of numbers; llama.cpp has at most 512 layers
MAX_VALUES = 2**63 - 1
MAX_SHARDS = 1024
UINT32, STRING, ARRAY = 4, 8, 9
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
WIDTHS = {"B": 1, "b": 1, "H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "?": 1, "Q": 8, "q": 8, "d": 8}
SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")

Scalar = str | int | float | bool
Value = Scalar | tuple[int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file (or all files of a split one) says before its data.

    values: scalars and short arrays of numbers. array_lengths: entries of every array, kept or
    not. data_offset: where the tensors' data begins in the first file. file_bytes: of all files.
    """

    version: int
    order: ByteOrder
    values: dict[str, Value]
    array_lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_bytes: int


def read_gguf(source: Source) -> GgufHeader:
    """The header of `source` and of the further files of a split model.

    Raises ModelUnusable for anything that is not sound, ModelNotFound for a missing part.
    """
    names = shard_names(source)
    if names == [source.name]:
        return read_gguf_file(source)
    parts = [_read_part(source, name, n, len(names)) for n, name in enumerate(names)]
    return _joined(source, parts)


def stored_type(path: Path) -> str | None:
    """What the GGUF file says its weights are stored as (`Q4_K_M`); None when it says nothing, or
    is no sound GGUF file."""
    try:
        with closing(LocalSource(path)) as source:
            said = read_gguf_file(source).values.get("general.file_type")
    except OknoError:
        return None
    return FILE_TYPES.get(said) if isinstance(said, int) else None


def shard_names(source: Source) -> list[str]:
    """The files of the model that `source` is a part of, or its own name."""
    match = SHARD.match(source.name)
    if not match:
        return [source.name]
    stem, count = match.group(1), int(match.group(3))
    if not 1 <= count <= MAX_SHARDS:
        raise ModelUnusable(f"{source.where}: a model of {count} parts is not possible.")
    return [f"{stem}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]


def read_gguf_file(source: Source) -> GgufHeader:
    """The header of this one file. Raises ModelUnusable."""
    cursor = Cursor(source)
    version = _version(cursor)
    n_tensors = cursor.length(least_bytes=8 + 4 + 4 + 8)
    n_pairs = cursor.length(least_bytes=8 + 1 + 4 + 1)
    if n_tensors > MAX_TENSORS or n_pairs > MAX_PAIRS:
        raise cursor.unsound(f"announces {n_tensors} tensors and {n_pairs} values, too many")
    values, lengths = _pairs(cursor, n_pairs)
    alignment = _alignment(cursor, values)
    tensors, offsets = _tensors(cursor, n_tensors)
    data_offset = -(-cursor.offset // alignment) * alignment
    _check_offsets(cursor, tensors, offsets, alignment)
    _check_end(source, tensors, offsets, data_offset)
    return GgufHeader(
        version, cursor.order, values, lengths, tensors, data_offset, source.size_bytes
    )


def pair_places(source: Source) -> dict[str, tuple[int, int]]:
    """(first byte, byte after the last) of each pair of key and value in this one file, which must
    be little-endian, by the key. Raises ModelUnusable."""
    cursor = Cursor(source)
    _version(cursor)
    if cursor.order != "<":
        raise cursor.unsound("is big-endian")
    cursor.length(least_bytes=8 + 4 + 4 + 8)
    places: dict[str, tuple[int, int]] = {}
    for _ in range(cursor.length(least_bytes=8 + 1 + 4 + 1)):
        start = cursor.offset
        key = cursor.text(MAX_KEY_BYTES).decode(errors="replace")
        kind = cursor.number("I")
        if kind == ARRAY:
            _array(cursor, key)
        else:
            _scalar(cursor, key, kind)
        places[key] = (start, cursor.offset)
    return places


def _version(cursor: Cursor) -> int:
    """The version; sets the byte order, which shows in it (0x03000000 is 3 the other way)."""
    start = cursor.take(min(len(MAGIC), cursor.left_bytes))
    if start != MAGIC:
        raise cursor.unsound(f"begins with {start!r} instead of {MAGIC!r}")
    version = cursor.number("I")
    if not version & 0xFFFF:
        cursor.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in VERSIONS:
        raise cursor.unsound(f"is of GGUF version {version}, not one of {VERSIONS},")
    return version


def _pairs(cursor: Cursor, count: int) -> tuple[dict[str, Value], dict[str, int]]:
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    seen: set[bytes] = set()
    found: Value | None
    for _ in range(count):
        raw = cursor.text(MAX_KEY_BYTES)
        if not raw or raw in seen:
            raise cursor.unsound(f"has the key {_shown(raw)} twice" if raw else "has an empty key")
        seen.add(raw)
        key = raw.decode(errors="replace")
        kind = cursor.number("I")
        if kind == ARRAY:
            lengths[key], found = _array(cursor, key)
        else:
            found = _scalar(cursor, key, kind)
        if found is not None:
            values[key] = found
    return values, lengths


def _scalar(cursor: Cursor, key: str, kind: int) -> Scalar | None:
    """The value; None for a text too long to keep."""
    if kind != STRING:
        return cursor.value(_code(cursor, key, kind))
    count = cursor.length()
    if count > MAX_TEXT_BYTES:
        cursor.skip(count)
        return None
    cursor.keep(count)
    return cursor.take(count).decode(errors="replace")


def _array(cursor: Cursor, key: str) -> tuple[int, tuple[int | float | bool, ...] | None]:
    """How many entries it has, and these, if they are few numbers."""
    kind = cursor.number("I")
    if kind == STRING:
        count = cursor.length(least_bytes=8)
        cursor.skip_strings(count)
        return count, None
    code = _code(cursor, key, kind)
    count = cursor.length(least_bytes=WIDTHS[code])
    if count <= MAX_KEPT_ITEMS:
        return count, cursor.values(code, count)
    cursor.skip(count * WIDTHS[code])
    return count, None


def _code(cursor: Cursor, key: str, kind: int) -> str:
    """The struct code of a number (no array in an array)."""
    if kind not in CODES:
        raise cursor.unsound(f"has a value of the unknown type {kind} for {_shown(key.encode())}")
    return CODES[kind]


def _alignment(cursor: Cursor, values: dict[str, Value]) -> int:
    found = values.get("general.alignment", 32)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1 or found & (found - 1):
        raise cursor.unsound(f"has the alignment {found!r}, which is no power of two")
    return found


def _tensors(cursor: Cursor, count: int) -> tuple[tuple[TensorInfo, ...], list[int]]:
    """The table of tensors, and where each begins in the data."""
    found: dict[str, TensorInfo] = {}
    offsets = []
    for _ in range(count):
        name = cursor.text(MAX_NAME_BYTES).decode(errors="backslashreplace")
        if name in found:
            raise cursor.unsound(f"has the tensor {name!r} twice")
        found[name] = _tensor(cursor, name)
        offsets.append(cursor.number("Q"))
    return tuple(found.values()), offsets


def _tensor(cursor: Cursor, name: str) -> TensorInfo:
    n_dimensions = cursor.number("I")
    if n_dimensions > MAX_DIMENSIONS:
        raise cursor.unsound(f"has a tensor {name!r} of {n_dimensions} dimensions")
    dimensions = tuple(cursor.number("Q") for _ in range(n_dimensions)) or (1,)
    product = 1
    for size in dimensions:  # a zero does not excuse the others
        product *= max(size, 1)
    if product > MAX_VALUES:
        raise cursor.unsound(f"has a tensor {name!r} of {product} values")
    number = cursor.number("I")
    kind = BY_NUMBER.get(number)
    if kind is None:
        raise cursor.unsound(f"has a tensor {name!r} of the unknown type {number}")
    if dimensions[0] % kind.block_values:
        raise cursor.unsound(
            f"has a tensor {name!r} with rows of {dimensions[0]} values, no whole number of "
            f"{kind.name} blocks ({kind.block_values})"
        )
    cursor.keep(256)
    return TensorInfo(name, kind.name, dimensions, tensor_bytes(kind, dimensions))


def _check_offsets(
    cursor: Cursor, tensors: tuple[TensorInfo, ...], offsets: list[int], alignment: int
) -> None:
    """Each tensor begins where the one before it ends, padded (the engine demands it)."""
    expected = 0
    for tensor, offset in zip(tensors, offsets, strict=True):
        if offset != expected:
            raise cursor.unsound(
                f"puts the tensor {tensor.name!r} at {offset} of its data instead of {expected}"
            )
        expected += -(-tensor.n_bytes // alignment) * alignment


def _check_end(
    source: Source, tensors: tuple[TensorInfo, ...], offsets: list[int], data_offset: int
) -> None:
    if not tensors:
        return
    needed = data_offset + offsets[-1] + tensors[-1].n_bytes
    if needed > source.size_bytes:
        missing = needed - source.size_bytes
        raise ModelUnusable(
            f"{source.where} is cut short: {missing} of {needed} bytes are missing. "
            "Download it again.",
            missing_bytes=missing,
        )


def _read_part(first: Source, name: str, number: int, count: int) -> GgufHeader:
    """One file of a split model, numbered from 0. Raises ModelNotFound when it is not there."""
    try:
        part = first.sibling(name)
    except ModelNotFound:
        raise ModelNotFound(
            f"{name} is missing beside {first.name}: a model of {count} parts needs all of them."
        ) from None
    with closing(part):
        header = read_gguf_file(part)
    said = header.values.get("split.no"), header.values.get("split.count")
    if said[0] not in (None, number) or said[1] not in (None, count):
        raise ModelUnusable(
            f"{part.where} says it is part {said[0]} (from 0) of {said[1]}, unlike its name. "
            "The parts were mixed up; download them again."
        )
    return header


def _joined(source: Source, parts: list[GgufHeader]) -> GgufHeader:
    """The parts as one: values of the first, tensors of all."""
    tensors = {tensor.name: tensor for part in parts for tensor in part.tensors}
    n_found = sum(len(part.tensors) for part in parts)
    said = parts[0].values.get("split.tensors.count", n_found)
    if len(tensors) != n_found or said != n_found:
        raise ModelUnusable(
            f"The parts of {source.where} hold {len(tensors)} different tensors where {said} are "
            "announced. Download them again, all from one place."
        )
    return replace(
        parts[0],
        tensors=tuple(tensors.values()),
        file_bytes=sum(part.file_bytes for part in parts),
    )


def _shown(raw: bytes) -> str:
    return repr(raw[:80].decode(errors="replace"))
