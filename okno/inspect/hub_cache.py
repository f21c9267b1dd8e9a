"""What the cache of huggingface_hub holds: repositories that are here already.

Layout (huggingface_hub, "Understand caching"): models--OWNER--REPO/{blobs, refs/REVISION,
snapshots/COMMIT/FILE}; each file of a snapshot links into blobs. Read here and not through the
library, because every start looks here and importing that takes 0.2 s; it writes and deletes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from okno.core.files import read_file
from okno.inspect.listing import (
    Checkpoint,
    Listing,
    LocalModel,
    checkpoint_of,
    list_folder,
    missing_parts,
)
from okno.inspect.source_hub import MAIN, Reference, with_quant

REPOSITORY = re.compile(r"models--([\w.-]{1,96})--([\w.-]{1,96})")
COMMIT = re.compile(r"[0-9a-f]{40}")
SNAPSHOTS = "snapshots"


def list_hub(cache: Path) -> Listing:
    """The models of every repository in the cache: of its main revision, else of the newest."""
    models: list[LocalModel] = []
    checkpoints: list[Checkpoint] = []
    for folder in _subfolders(cache):
        named = REPOSITORY.fullmatch(folder.name)
        snapshot = _default_snapshot(folder) if named else None
        if named and snapshot:
            found = list_snapshot(snapshot, f"{named[1]}/{named[2]}")
            models += found.models
            checkpoints += found.checkpoints
    return Listing(tuple(models), tuple(checkpoints), ())


def repositories(cache: Path) -> list[str]:
    """The names (`owner/repo`) of those that the cache has something of."""
    named = (REPOSITORY.fullmatch(folder.name) for folder in _subfolders(cache))
    return [f"{match[1]}/{match[2]}" for match in named if match]


def list_snapshot(snapshot: Path, repository: str) -> Listing:
    """The models of one snapshot. Half a split model is none."""
    listing = list_folder(snapshot, within=snapshot.parent.parent)
    whole = [model for model in listing.models if not missing_parts(_beside(model.path))]
    names = [name for name in _names(snapshot) if (snapshot / name).is_file()]
    own = None
    if not listing.models and not missing_parts(names):
        own = checkpoint_of(snapshot, [snapshot / name for name in names])
    return Listing(
        tuple(_named(model, snapshot, repository, alone=len(whole) == 1) for model in whole),
        () if own is None else (replace(own, name=repository, spellings=_spellings(repository)),),
        (),
    )


def snapshot_of(reference: Reference, cache: Path) -> Path | None:
    """The snapshot of the revision of `reference` that is here."""
    repository = cache / f"models--{reference.owner}--{reference.repo}"
    if reference.revision == MAIN:
        return _default_snapshot(repository)
    return _snapshot(repository, _commit(repository, reference.revision))


def find_cached(reference: Reference, cache: Path) -> list[LocalModel | Checkpoint]:
    """What of `reference` is here, whole."""
    snapshot = snapshot_of(reference, cache)
    if snapshot is None:
        return []
    return narrowed(list_snapshot(snapshot, reference.id), reference, reference.id)


def narrowed(listing: Listing, reference: Reference, folder: str) -> list[LocalModel | Checkpoint]:
    """What of a repository's `listing`, where it is called `folder`, the file or the quantisation
    of `reference` means."""
    if reference.file:
        named = f"{folder}/{reference.file}"
        return [entry for entry in listing.models if named in entry.spellings]
    if not reference.quant:
        return list(listing.entries)
    by_name = {model.path.name: model for model in listing.models}
    return [by_name[name] for name in with_quant(list(by_name), reference.quant)]


def _default_snapshot(repository: Path) -> Path | None:
    """Of main, else the newest."""
    main = _snapshot(repository, _commit(repository, MAIN))
    if main is not None:
        return main
    found = [path for path in _subfolders(repository / SNAPSHOTS) if COMMIT.fullmatch(path.name)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _snapshot(repository: Path, commit: str | None) -> Path | None:
    path = repository / SNAPSHOTS / (commit or "none")
    return path if commit and path.is_dir() else None


def _commit(repository: Path, revision: str) -> str | None:
    """The commit of a branch, a tag or (the beginning of) a commit."""
    try:
        text = read_file(repository / "refs" / revision, 200).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        text = revision
    if COMMIT.fullmatch(text):
        return text
    if not re.fullmatch(r"[0-9a-f]{7,39}", text):
        return None
    begun = [path.name for path in _subfolders(repository / SNAPSHOTS)]
    found = [name for name in begun if name.startswith(text)]
    return found[0] if len(found) == 1 else None


def _named(model: LocalModel, snapshot: Path, repository: str, *, alone: bool) -> LocalModel:
    """Called after its file; by its repository too, when it is the only one of it."""
    file = model.path.relative_to(snapshot.resolve()).as_posix()
    words = {*model.spellings, f"{repository}/{file}"}
    if alone:
        words |= set(_spellings(repository))
    return replace(model, spellings=tuple(sorted(words)))


def _spellings(repository: str) -> tuple[str, ...]:
    return (repository, repository.rsplit("/", 1)[-1])


def _beside(path: Path) -> list[str]:
    """The parts of the split model of which `path` is the first."""
    stem = path.name[: -len("-00001-of-00001.gguf")]
    return [name for name in _names(path.parent) if name.startswith(stem)]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in _entries(folder))


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Files of a repository that did not come in full. size: what of them is here."""

    repository: str
    size_bytes: int


def interrupted(cache: Path) -> list[Interrupted]:
    """The downloads into the cache that were cut short (or go on just now)."""
    found = []
    for folder in _subfolders(cache):
        named = REPOSITORY.fullmatch(folder.name)
        partial = [path for path in _entries(folder / "blobs") if path.suffix == ".incomplete"]
        if named and partial:
            begun = sum(path.stat().st_size for path in partial)
            found.append(Interrupted(f"{named[1]}/{named[2]}", begun))
    return found
