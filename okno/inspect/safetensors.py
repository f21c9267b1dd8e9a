"""The headers of safetensors files: names, types and sizes of tensors. Never trusts the file.

Format: github.com/huggingface/safetensors, README ("Format"); a model of several files has a
`model.safetensors.index.json` beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field

import msgspec

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.inspect.source import Source

MAX_HEADER_BYTES = 8 * 1024 * 1024  # of one file; the largest known have 2 MiB
MAX_JSON_BYTES = 16 * 1024 * 1024  # of config.json and the index
MAX_SHARDS = 1024
MAX_DIMENSIONS = 8
MAX_VALUES = 2**63 - 1
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PART = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
SHARD_NAME = re.compile(r"[\w.-]{1,200}\.safetensors")
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """dtype: safetensors' name. shape: outermost first, as PyTorch has it. part: the file it is in;
    offset: where in that file its values begin."""

    dtype: str
    shape: tuple[int, ...]
    part: str = field(default="", compare=False)
    offset: int = field(default=0, compare=False)

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_values * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a model by name, and the bytes of its files. parts: their names."""

    tensors: dict[str, StoredTensor]
    file_bytes: int
    parts: tuple[str, ...] = ()


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_weights(beside: Source) -> Weights:
    """The tensors of the safetensors model in the folder of `beside`.

    Raises ModelUnusable, and ModelNotFound with the name of a missing part.
    """
    names = _shard_names(beside)
    tensors: dict[str, StoredTensor] = {}
    file_bytes = 0
    for name in names:
        with closing(_part(beside, name)) as source:
            found = read_tensors(source)
            file_bytes += source.size_bytes
        if tensors.keys() & found.keys():
            raise ModelUnusable(f"{source.where} repeats tensors of another part of the model.")
        tensors |= found
    return Weights(tensors, file_bytes, tuple(names))


def read_tensors(source: Source) -> dict[str, StoredTensor]:
    """The tensors of one file. Raises ModelUnusable."""
    start = source.read(0, 8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= size <= min(MAX_HEADER_BYTES, source.size_bytes - 8):
        raise _unsound(source, f"announces a header of {size} bytes")
    entries = _decode(source, source.read(8, size))
    ends = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        _check(source, name, entry)
        if entry.data_offsets[0] != ends:
            raise _unsound(source, f"puts {name[:80]!r} at {entry.data_offsets[0]} and not {ends}")
        ends = entry.data_offsets[1]
    if ends != source.size_bytes - 8 - size:
        raise _unsound(source, f"has {source.size_bytes - 8 - size} bytes of data and not {ends}")
    return {
        name: StoredTensor(e.dtype, tuple(e.shape), source.name, 8 + size + e.data_offsets[0])
        for name, e in entries.items()
    }


def read_json(source: Source, *, least: str = "an object") -> dict[str, object]:
    """A JSON object of bounded size. Raises ModelUnusable."""
    if source.size_bytes > MAX_JSON_BYTES:
        raise ModelUnusable(f"{source.where} has {source.size_bytes} bytes, too many for a JSON.")
    try:
        return msgspec.json.decode(source.read(0, source.size_bytes), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelUnusable(f"{source.where} is not {least} in JSON: {error}.") from None


def _decode(source: Source, data: bytes) -> dict[str, _Entry]:
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        return {name: msgspec.json.decode(item, type=_Entry) for name, item in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unsound(source, f"has a header that cannot be read ({str(error)[:200]})") from None


def _check(source: Source, name: str, entry: _Entry) -> None:
    bits = BITS.get(entry.dtype)
    if bits is None:
        raise _unsound(source, f"has a tensor {name[:80]!r} of type {entry.dtype[:20]!r}")
    if len(entry.shape) > MAX_DIMENSIONS or min(entry.shape, default=0) < 0:
        raise _unsound(source, f"has a tensor {name[:80]!r} of an impossible shape")
    begin, end = entry.data_offsets
    values = math.prod(entry.shape)
    if values > MAX_VALUES or values * bits != 8 * (end - begin):
        raise _unsound(source, f"gives {end - begin} bytes to {name[:80]!r} of {values} values")


def only_weights(names: Collection[str]) -> str | None:
    """Of the files of a folder the one with weights, where it is called neither as usual nor in an
    index (as GPTQ checkpoints of old are); None where there is no such file, or several."""
    found = [name for name in names if name.endswith(".safetensors")]
    is_only = len(found) == 1 and INDEX not in names and SINGLE not in names
    return found[0] if is_only else None


def _shard_names(beside: Source) -> list[str]:
    """The files of the model, by its index, or the only one."""
    part = PART.search(beside.name)
    if beside.name.endswith(".safetensors") and (part is None or int(part[1]) == 1):
        return [beside.name]
    try:
        index = beside.sibling(INDEX)
    except ModelNotFound:
        return [SINGLE]
    with closing(index):
        weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelUnusable(f"{index.where} lists no files.")
    names = sorted({str(file) for file in weight_map.values()})
    odd = next((name for name in names if not SHARD_NAME.fullmatch(name)), None)
    if odd is not None or len(names) > MAX_SHARDS:
        raise ModelUnusable(
            f"{index.where} lists {len(names)} files, as {(odd or names[0])[:80]!r}."
        )
    return names


def _part(beside: Source, name: str) -> Source:
    try:
        return beside.sibling(name)
    except ModelNotFound:
        raise ModelNotFound(
            f"{name} is missing beside {beside.where}: the model needs all of its files."
        ) from None


def _unsound(source: Source, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"{source.where} {what}, so it is not a sound safetensors file. Was the download cut "
        "short? Get it again."
    )
