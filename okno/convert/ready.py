"""`engine_ready`: a checkpoint as a GGUF file that the engine loads, made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from okno.convert.cache import cached_path, converted_folder, locked, sweep, written
from okno.convert.checkpoint import Checkpoint
from okno.convert.families import notes_on
from okno.convert.fields import Field
from okno.convert.metadata import file_type_of, metadata_of
from okno.convert.packed_notes import notes_on_packed
from okno.convert.packed_targets import is_reordered
from okno.convert.pipeline import file_bytes, write_model
from okno.convert.planned import Planned, planned
from okno.convert.progress import Progress
from okno.convert.provenance import (
    Sources,
    fields_of,
    is_current,
    note_stamps,
    provenance_of,
    sources_of,
    unknown_hashes,
)
from okno.convert.vocabulary import vocabulary_of
from okno.convert.wants import Wants
from okno.core.errors import ModelUnusable
from okno.inspect.listing import LocalModel

__all__ = ["Converted", "convert", "converted_folder", "engine_ready"]


def _mute(_: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A conversion that was done. notes: sentences for the user about what differs from the
    original."""

    path: Path
    size_bytes: int
    file_type: str
    notes: tuple[str, ...]


def engine_ready(
    folder: Path, wants: Wants, progress: Progress, say: Callable[[str], None] = _mute
) -> LocalModel:
    """The checkpoint in `folder` as the engine loads it: the kept file when it was made from just
    these files by this converter, else converted now. Processes that ask at once convert once.

    say: is told sentences about what was done, and what differs from the original. Raises
    ModelNotFound, ModelUnusable, DiskFull; what `progress` raises stops it cleanly.
    """
    checkpoint = Checkpoint(folder)
    name, kept = checkpoint.described.name, converted_folder()
    if checkpoint.described.quantised is not None:
        wants = Wants()  # it is kept as it is, whatever was wanted
    path = cached_path(kept, folder, name, wants)
    sweep(kept)
    sources = sources_of(folder)
    with locked(path):
        if not is_current(path, sources, wants):
            path.unlink(missing_ok=True)
            made = _convert(checkpoint, sources, path, wants, progress)
            note_stamps(path, sources)
            for note in (f"{name} was converted once and is kept as {path}.", *made.notes):
                say(note)
        return LocalModel(name, path, path.stat().st_size, (name,))


def convert(folder: Path, out: Path, wants: Wants, progress: Progress) -> Converted:
    """The checkpoint in `folder` as the file `out`, which must not exist. Errors as of
    engine_ready."""
    checkpoint = Checkpoint(folder)
    with locked(out):
        if out.exists():
            raise ModelUnusable(f"{out} exists already. Remove it, or give another name.")
        return _convert(checkpoint, sources_of(folder), out, wants, progress)


def _convert(
    checkpoint: Checkpoint, sources: Sources, path: Path, wants: Wants, progress: Progress
) -> Converted:
    """Write `path`, whose lock is held. Whatever stops it, nothing is left under any name."""
    plan = planned(checkpoint, wants)
    file_type = file_type_of(plan.tensors)
    values = _values(checkpoint, plan, file_type)
    values |= fields_of(provenance_of(sources, wants, unknown_hashes(sources)))
    size = file_bytes(plan, values)
    what = f"Converting {checkpoint.described.name}"
    with written(path, size, what) as part, _hashing(sources) as hashes:
        last = _Last(sources, wants, hashes)
        write_model(checkpoint, plan, values, part, progress, last)
    notes = notes_on(checkpoint.described, plan.family) + notes_on_packed(plan.packed)
    return Converted(path, size, file_type, notes)


@contextmanager
def _hashing(sources: Sources) -> Iterator[Future[dict[str, str]]]:
    """Hashes the sources meanwhile: they are read for the conversion anyway, so they come from
    memory and not from the disk. Stops when the conversion fails."""
    stopped = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        try:
            yield pool.submit(sources.hashes, stopped)
        finally:
            stopped.set()


@dataclass(frozen=True, slots=True)
class _Last:
    """The provenance once the files are hashed."""

    sources: Sources
    wants: Wants
    hashes: Future[dict[str, str]]

    def __call__(self) -> Mapping[str, Field]:
        return fields_of(provenance_of(self.sources, self.wants, self.hashes.result()))


def _values(checkpoint: Checkpoint, plan: Planned, file_type: str) -> dict[str, Field]:
    """All values of the header but where it comes from."""
    model = checkpoint.described
    vocabulary = vocabulary_of(checkpoint.folder, model.sizes.n_vocab)
    values = metadata_of(model, file_type, plan.n_params, vocabulary)
    # where an adapter for the checkpoint does not fit any more (okno/inspect/adapter.py)
    return values | ({"okno.reordered": True} if is_reordered(plan.packed) else {})
