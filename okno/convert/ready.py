"""`engine_ready`: a checkpoint as a GGUF file that the engine loads, made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from okno.convert.cache import cached_path, converted_folder, locked, sweep, written
from okno.convert.checkpoint import Checkpoint
from okno.convert.families import family_of, notes_on
from okno.convert.fields import Field
from okno.convert.hashing import hashing
from okno.convert.metadata import file_type_of, metadata_of
from okno.convert.packed_notes import fields_on_packed, notes_on_packed
from okno.convert.pipeline import file_bytes, write_model
from okno.convert.planned import Planned, planned
from okno.convert.progress import Progress
from okno.convert.provenance import (
    Sources,
    check_unchanged,
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
from okno.inspect.fewer_bits import is_quantised_to
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
    sources = sources_of(folder)
    checkpoint = Checkpoint(folder)
    name, kept = checkpoint.described.name, converted_folder()
    wants = _gained(checkpoint, wants)
    path = cached_path(kept, folder, name, wants)
    sweep(kept)
    notes = notes_on(checkpoint.described, family_of(checkpoint.described))
    if not is_current(path, sources, wants):  # what is kept may lie on a disk that is only read
        with locked(path, progress):
            if not is_current(path, sources, wants):
                path.unlink(missing_ok=True)
                made = _convert(checkpoint, sources, path, wants, progress)
                note_stamps(path, sources)
                notes = (f"{name} was converted, once; the result is kept: {path}.", *made.notes)
    for note in notes:
        say(note)
    return LocalModel(name, path, path.stat().st_size, (name,))


def convert(folder: Path, out: Path, wants: Wants, progress: Progress) -> Converted:
    """The checkpoint in `folder` as the file `out`, which must not exist. Errors as of
    engine_ready."""
    sources = sources_of(folder)
    checkpoint = Checkpoint(folder)
    wants = _gained(checkpoint, wants)
    with locked(out, progress):
        if out.exists():
            raise ModelUnusable(f"{out} exists already. Remove it, or give another name.")
        return _convert(checkpoint, sources, out, wants, progress)


def _gained(checkpoint: Checkpoint, wants: Wants) -> Wants:
    """`wants`, or nothing for packed layers that would not gain by it."""
    packed = checkpoint.described.quantised
    is_gain = packed is None or is_quantised_to(packed.name, wants.file_type)
    return wants if is_gain else Wants()


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
    with written(path, size, what) as part, hashing(sources) as hashes:
        last = _Last(sources, wants, hashes, plan)
        write_model(checkpoint, plan, values, part, progress, last)
    notes = notes_on(checkpoint.described, plan.family) + notes_on_packed(plan.packed)
    return Converted(path, size, file_type, notes)


@dataclass(frozen=True, slots=True)
class _Last:
    """The provenance once the files are hashed, and what became of packed layers."""

    sources: Sources
    wants: Wants
    hashes: Future[dict[str, str]]
    plan: Planned

    def __call__(self) -> Mapping[str, Field]:
        made = provenance_of(self.sources, self.wants, self.hashes.result())
        check_unchanged(self.sources)
        return fields_of(made) | fields_on_packed(self.plan.packed)


def _values(checkpoint: Checkpoint, plan: Planned, file_type: str) -> dict[str, Field]:
    """All values of the header but where it comes from."""
    model = checkpoint.described
    vocabulary = vocabulary_of(checkpoint.folder, model.sizes.n_vocab)
    return metadata_of(model, file_type, plan.n_params, vocabulary) | fields_on_packed(plan.packed)
