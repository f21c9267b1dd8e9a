"""A GGUF file of floats, or of 8 bits, with fewer bits: what llama-quantize makes of it, once and
kept.

The mixture of types is llama-quantize's (inspect/header_quant.py), and so are the bytes of each
tensor, but for ties in Q8_0 (a test compares with it); unlike it, this works row by row in little
memory, says how far it is, and leaves nothing half done.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from okno.convert.cache import cached_path, converted_folder, locked, sweep, written
from okno.convert.fields import Field
from okno.convert.finite import check_finite
from okno.convert.hashing import hashing
from okno.convert.pipeline import Meter, write_gguf
from okno.convert.progress import Progress
from okno.convert.provenance import (
    Sources,
    check_unchanged,
    fields_of,
    is_current,
    note_stamps,
    provenance_of,
    sources_named,
    unknown_hashes,
)
from okno.convert.quantise import dequantise_rows, quantise_rows, row_bytes
from okno.convert.values import encoded
from okno.convert.wants import Wants
from okno.convert.work import PIECE_BYTES, Bytes, Job
from okno.core.errors import ModelUnusable
from okno.core.files import open_file
from okno.core.header import TensorInfo
from okno.inspect.gguf import GgufHeader, pair_places, read_gguf, read_gguf_file, shard_names
from okno.inspect.gguf_types import BY_NAME, FILE_TYPES
from okno.inspect.gguf_write import gguf_header, padded
from okno.inspect.header_quant import typed
from okno.inspect.listing import LocalModel
from okno.inspect.paths import cannot_be_read
from okno.inspect.source import LocalSource

STAGE = "Quantising"
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # as numpy holds them, BF16 as its bits
SOURCES = (*FLOATS, "Q8_0")  # what is quantised; the other types are copied
REPLACED = ("general.file_type", "general.quantization_version", "general.alignment")
QUANTISATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION
NUMBERS = {name: number for number, name in FILE_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    path: Path
    offset: int
    stored: TensorInfo


def requantised(model: LocalModel, wants: Wants, progress: Progress) -> LocalModel:
    """`model`, a GGUF file of floats or of 8 bits, with the bits of `wants`: the kept file when it
    was made from this very file, else made now. Processes that ask at once make it once.

    Raises ModelNotFound, ModelUnusable, DiskFull; what `progress` raises stops it cleanly.
    """
    assert wants.file_type is not None, "nothing is wanted"
    kept = converted_folder()
    path = cached_path(kept, model.path, model.name, wants)
    sweep(kept)
    with closing(LocalSource(model.path)) as source:
        names = shard_names(source)
    sources = sources_named(model.path.parent, names)
    if not is_current(path, sources, wants):  # what is kept may lie on a disk that is only read
        with locked(path, progress):
            if not is_current(path, sources, wants):
                path.unlink(missing_ok=True)
                _quantise(model, sources, path, wants, progress)
                note_stamps(path, sources)
    return LocalModel(model.name, path, path.stat().st_size, (model.name,))


def quantised_types(header: GgufHeader, file_type: str) -> dict[str, str]:
    """The type of each tensor in a file of `file_type`, by its name. What has few bits stays."""
    shapes = sorted(((t.name, t.dimensions) for t in header.tensors), key=_by_layer)
    architecture = str(header.values.get("general.architecture", ""))
    n_head, n_head_kv = (
        _first(header.values, f"{architecture}.attention.{key}")
        for key in ("head_count", "head_count_kv")
    )
    found = typed(
        shapes,
        file_type,
        architecture=architecture,
        n_layer=_first(header.values, f"{architecture}.block_count") or 0,
        n_gqa=0 if n_head_kv == 0 else (n_head or 0) // (n_head_kv or n_head or 1),
        n_expert=_first(header.values, f"{architecture}.expert_count") or 0,
    )
    wanted = {tensor.name: tensor.type for tensor in found if BY_NAME[tensor.type].is_quantised}
    return {
        t.name: wanted.get(t.name, t.type) if t.type in SOURCES else t.type for t in header.tensors
    }


def _quantise(
    model: LocalModel, sources: Sources, path: Path, wants: Wants, progress: Progress
) -> None:
    """Write `path`, whose lock is held."""
    file_type = wants.file_type or ""
    with closing(LocalSource(model.path)) as source:
        header = read_gguf(source)
        carried = _pairs(source, model.path)
    types = quantised_types(header, file_type)
    places = [place for name in sources.stamps for place in _places(sources.folder / name)]
    tensors = [_as(place.stored, types[place.stored.name]) for place in places]

    def values(hashes: Mapping[str, str]) -> dict[str, Field]:
        made = provenance_of(sources, wants, hashes)
        if "/" not in made.source:
            made = msgspec.structs.replace(made, source=model.path.name)
        return {
            "general.file_type": NUMBERS[file_type],
            "general.quantization_version": QUANTISATION_VERSION,
            **fields_of(made),
        }

    def finished() -> dict[str, Field]:
        found = values(hashes.result())
        check_unchanged(sources)
        return found

    first = gguf_header(values(unknown_hashes(sources)), tensors, carried)
    size = len(first) + sum(padded(tensor.n_bytes) for tensor in tensors)
    with written(path, size, f"Quantising {model.name}") as part, hashing(sources) as hashes:
        write_gguf(
            part,
            lambda last: gguf_header(finished(), tensors, carried) if last else first,
            tensors,
            list(_jobs(places, tensors)),
            Meter(progress, STAGE),
        )


def _jobs(places: Sequence[Place], tensors: Sequence[TensorInfo]) -> Iterator[tuple[int, Job]]:
    """All work in the order of the file."""
    for number, (place, tensor) in enumerate(zip(places, tensors, strict=True)):
        n_rows = math.prod(tensor.dimensions[1:])
        row_bytes = place.stored.n_bytes // max(n_rows, 1)
        count = max(1, PIECE_BYTES // max(row_bytes, 1))
        for first in range(0, n_rows, count):
            n_bytes = min(count, n_rows - first) * row_bytes
            start = place.offset + first * row_bytes
            yield number, _job(place, start, n_bytes, tensor)


def _job(place: Place, start: int, n_bytes: int, tensor: TensorInfo) -> Job:
    def make() -> Bytes:
        data, kind = _read(place.path, start, n_bytes), place.stored.type
        if kind in FLOATS:
            check_finite(data.view(FLOATS[kind]), kind, tensor.name, place.path)
        if tensor.type == kind:
            return data
        columns = tensor.dimensions[0]
        if kind == "Q8_0":
            rows = dequantise_rows(data.reshape(-1, row_bytes(kind, columns)), kind, columns)
            check_finite(rows, "F32", tensor.name, place.path)
            return quantise_rows(rows, tensor.type).reshape(-1)
        return encoded(data.view(FLOATS[kind]).reshape(-1, columns), kind, tensor.type)

    return Job(make, n_bytes)


def _read(path: Path, start: int, n_bytes: int) -> Bytes:
    data = np.empty(n_bytes, np.uint8)
    try:
        with open_file(path) as file:
            file.seek(start)
            got = file.readinto(data.data)
    except OSError as error:
        raise cannot_be_read(path, error) from None
    if got != n_bytes:
        raise ModelUnusable(f"{path} was cut short while it was read. Get the file again.")
    return data


def _places(path: Path) -> Iterator[Place]:
    """The tensors of one file, in the order of its data."""
    with closing(LocalSource(path)) as source:
        header = read_gguf_file(source)
    alignment = header.values.get("general.alignment", 32)
    assert isinstance(alignment, int)
    offset = header.data_offset
    for tensor in header.tensors:
        yield Place(path, offset, tensor)
        offset += -(-tensor.n_bytes // alignment) * alignment


def _pairs(source: LocalSource, path: Path) -> list[bytes]:
    """The pairs of key and value that stay as they are."""
    return [
        _read(path, start, stop - start).tobytes()
        for key, (start, stop) in pair_places(source).items()
        if key not in REPLACED and not key.startswith(("split.", "okno."))
    ]


def _as(stored: TensorInfo, kind: str) -> TensorInfo:
    columns, block = stored.dimensions[0], BY_NAME[kind]
    n_bytes = stored.n_values // columns * (columns // block.block_values * block.block_bytes)
    return TensorInfo(stored.name, kind, stored.dimensions, n_bytes)


def _first(values: Mapping[str, object], key: str) -> int | None:
    """A number, or the first of a list (one for each layer)."""
    found = values.get(key)
    if isinstance(found, tuple):
        found = found[0] if found else None
    return found if isinstance(found, int) else None


def _by_layer(shape: tuple[str, tuple[int, ...]]) -> tuple[int, str]:
    """llama-model-loader.h, weight_name_comparer: the order in which llama-quantize counts."""
    match = re.match(r"blk\.(\d+)\.", shape[0])
    return (int(match[1]) if match else -1), shape[0]
