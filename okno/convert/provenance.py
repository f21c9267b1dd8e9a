"""Where a converted model comes from: written into it, and compared before it is used again.

Two steps, so that a start costs nothing and no changed file is missed. The file's own metadata has
the sha256 of every source file, taken while they were converted. Beside it lie the sizes and times
the sources had: as long as these are the same nothing is read. Where they differ (a copied folder,
a fresh download of the same files) the hashes decide.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import msgspec

import okno
from okno.convert.cache import part_of
from okno.convert.checkpoint import Checkpoint
from okno.convert.fields import Field
from okno.convert.wants import Wants
from okno.core.errors import ModelUnusable, OknoError
from okno.core.files import open_file, read_file
from okno.inspect.gguf import read_gguf_file
from okno.inspect.paths import cannot_be_read, names_in
from okno.inspect.source import LocalSource

# Counted up whenever a conversion may give another file than before: older results are made anew.
CONVERTER = 1
KEY = "okno.provenance"
HASH_CHARS = 64
CHUNK_BYTES = 4 * 1024 * 1024
MAX_NOTE_BYTES = 4 * 1024 * 1024
# Files that decide about the result, beside the weights.
DECIDING = (
    "config.json", "quantize_config.json", "generation_config.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "tekken.json",
    "model.safetensors.index.json",
)  # fmt: skip


class Stamp(msgspec.Struct, frozen=True):
    """What of a file shows that it was changed: its size, times (in ns) and place on the disk."""

    size: int
    changed_ns: int
    status_ns: int
    place: int


class Provenance(msgspec.Struct, frozen=True):
    """What a file was made from. files: sha256 by name; wants: the type asked for, empty: as
    stored."""

    converter: int
    okno: str
    source: str
    revision: str
    wants: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Sources:
    """The files a conversion reads, with their stamps, by name."""

    folder: Path
    stamps: Mapping[str, Stamp]

    def hashes(self, stopped: Event | None = None) -> dict[str, str]:
        """sha256 of every file, by name. Reads them all, unless it is stopped (what it gives then
        means nothing). Raises ModelUnusable."""
        names = sorted(self.stamps)
        return {name: sha256_of(self.folder / name, stopped or Event()) for name in names}


def sources_of(folder: Path) -> Sources:
    """Raises ModelUnusable, ModelNotFound for a folder without weights."""
    parts = Checkpoint(folder).described.weights.parts
    names = {*parts, *(name for name in names_in(folder) if name in DECIDING)}
    extra = folder / "additional_chat_templates"
    if extra.is_dir():
        names |= {f"{extra.name}/{name}" for name in names_in(extra)}
    return Sources(folder, {name: _stamp(folder / name) for name in names})


def check_unchanged(sources: Sources) -> None:
    """Raises ModelUnusable when a file is not what it was: the hashes, taken later than the values
    were read, would say that a mixture of old and new is the new."""
    for name, stamp in sources.stamps.items():
        now = _stamp(sources.folder / name)
        if msgspec.structs.replace(now, status_ns=stamp.status_ns) != stamp:  # a new link is none
            raise ModelUnusable(
                f"{sources.folder / name} was changed while it was read, so nothing was kept. Run "
                "the same command again when nothing writes there."
            )


def sources_named(folder: Path, names: Iterable[str]) -> Sources:
    """Just these files. Raises ModelUnusable for one that is not there."""
    return Sources(folder, {name: _stamp(folder / name) for name in names})


def provenance_of(sources: Sources, wants: Wants, hashes: Mapping[str, str]) -> Provenance:
    source, revision = origin_of(sources.folder)
    return Provenance(
        CONVERTER, okno.__version__, source, revision, wants.file_type or "", dict(hashes)
    )


def origin_of(folder: Path) -> tuple[str, str]:
    """(repository or folder name, revision): as the hub's cache names them, or as `hf download`
    notes beside the files it puts into a folder."""
    path = folder.absolute()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/", 1), path.name
    note = path / ".cache" / "huggingface" / "download" / "config.json.metadata"
    try:
        first = read_file(note, 200).decode("utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return path.name, ""
    return path.name, first.strip() if first.strip().isalnum() else ""


def fields_of(made: Provenance) -> dict[str, Field]:
    """As metadata. Its length does not depend on the hashes."""
    found: dict[str, Field] = {KEY: msgspec.json.encode(made).decode()}
    if "/" in made.source:
        found["general.source.huggingface.repository"] = made.source
    return found


def provenance_in(path: Path) -> Provenance | None:
    """What the GGUF file at `path` says it was made from; None when it says nothing sound."""
    try:
        with closing(LocalSource(path)) as source:
            said = read_gguf_file(source).values.get(KEY)
        return msgspec.json.decode(said, type=Provenance) if isinstance(said, str) else None
    except (OknoError, msgspec.DecodeError):
        return None


def unknown_hashes(sources: Sources) -> dict[str, str]:
    """Placeholders as long as the real ones."""
    return dict.fromkeys(sorted(sources.stamps), "0" * HASH_CHARS)


def is_current(path: Path, sources: Sources, wants: Wants) -> bool:
    """Whether the file at `path` is what converting `sources` would give now."""
    made = provenance_in(path)
    if made is None or (made.converter, made.wants) != (CONVERTER, wants.file_type or ""):
        return False
    if made.files.keys() != sources.stamps.keys():
        return False
    if _noted(path) == sources.stamps:
        return True
    if made.files != sources.hashes():
        return False
    note_stamps(path, sources)
    return True


def note_stamps(path: Path, sources: Sources) -> None:
    """Remember beside `path` what its sources looked like. Not being able to costs a hashing."""
    data = msgspec.json.encode(dict(sources.stamps))
    note = note_of(path)
    part = part_of(note)
    with suppress(OSError):
        try:
            part.write_bytes(data)
            os.replace(part, note)
        finally:
            part.unlink(missing_ok=True)


def sha256_of(path: Path, stopped: Event) -> str:
    """Raises ModelUnusable when it cannot be read."""
    found = hashlib.sha256()
    try:
        with open_file(path) as file:
            while not stopped.is_set() and (data := file.read(CHUNK_BYTES)):
                found.update(data)
        return found.hexdigest()
    except OSError as error:
        raise cannot_be_read(path, error) from None


def _noted(path: Path) -> Mapping[str, Stamp]:
    try:
        return msgspec.json.decode(read_file(note_of(path), MAX_NOTE_BYTES), type=dict[str, Stamp])
    except (OSError, msgspec.DecodeError):
        return {}


def note_of(path: Path) -> Path:
    """Where the stamps of what `path` was made from are."""
    return path.with_name(path.name + ".sources.json")


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise cannot_be_read(path, error) from None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
