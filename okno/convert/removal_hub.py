"""Removing from the cache of huggingface_hub: a repository, one revision of it, one model of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from okno.convert.removable import Removal, called, parts_of
from okno.core.errors import ModelUnusable
from okno.inspect.hub_cache import (
    SNAPSHOTS,
    Interrupted,
    interrupted,
    list_hub,
    list_snapshot,
    narrowed,
    repositories,
    snapshot_of,
)
from okno.inspect.listing import Checkpoint, LocalModel
from okno.inspect.names import key
from okno.inspect.source_hub import Reference, parse_reference

FILE = "a file in the hub's cache"
REVISION = "a revision in the hub's cache"
REPOSITORY = "a repository in the hub's cache"


def of_hub(asked: str, cache: Path) -> list[Removal]:
    """What `asked` is there: a repository by its name (also one that has not come in full), one
    revision (`owner/repo@rev`), models of a quantisation (`owner/repo:Q4_K_M`) or a file; `hf:` may
    stand before each."""
    reference = parse_reference(asked)
    if reference is not None and ("@" in asked or reference.quant):
        return _of_revision(reference, asked, cache)
    entries = list_hub(cache).entries
    if reference is not None and not reference.file:
        begun = [one for one in interrupted(cache) if key(one.repository) == key(reference.id)]
        whole = [one for one in entries if key(repository_of(one.path)) == key(reference.id)]
        if begun or whole:
            name = repository_of(whole[0].path) if whole else begun[0].repository
            return [_whole(name, whole, begun)]
    return [_entry(one) for one in called(asked.removeprefix("hf:"), entries)]


def remove_from_hub(removal: Removal, cache: Path) -> None:
    """Do it. Raises OSError, and ModelUnusable for what huggingface_hub leaves alone."""
    if removal.commit is not None and removal.repository is not None:
        _remove_revision(removal.repository, removal.commit, cache)
    elif removal.repository is not None:
        _remove_repository(removal.repository, cache)
    else:
        _remove_files(removal.files, cache)


def repository_of(path: Path) -> str:
    """`owner/repo` of a path in the hub's cache."""
    named = next(part for part in reversed(path.parts) if part.startswith("models--"))
    return "/".join(named.split("--", 2)[1:])


def _of_revision(reference: Reference, asked: str, cache: Path) -> list[Removal]:
    """Of the revision that is named, else of main: what the file or the quantisation means, or all
    that no other revision has."""
    names = [name for name in repositories(cache) if key(name) == key(reference.id)]
    if len(names) != 1:
        return []
    owner, _, repo = names[0].partition("/")
    known = replace(reference, owner=owner, repo=repo)
    snapshot = snapshot_of(known, cache)
    if snapshot is None:
        return []
    listing = list_snapshot(snapshot, known.id)
    if known.file or known.quant:
        return [_entry(one) for one in narrowed(listing, known, known.id)]
    models = tuple(entry.name for entry in listing.entries)
    exactly = f"hf:{known.id}@{snapshot.name}"
    size_bytes = sum(entry.size_bytes for entry in listing.entries)
    return [
        Removal(
            exactly.removeprefix("hf:"), REVISION, exactly, size_bytes, models,
            repository=known.id, commit=snapshot.name,
        )
    ]  # fmt: skip


def _entry(one: LocalModel | Checkpoint) -> Removal:
    repository = repository_of(one.path)
    if isinstance(one, Checkpoint):
        return _whole(repository, [one], [])
    return Removal(one.name, FILE, str(one.path), one.size_bytes, (one.name,), parts_of(one.path))


def _whole(
    repository: str, entries: Sequence[LocalModel | Checkpoint], begun: Sequence[Interrupted]
) -> Removal:
    size_bytes = sum(one.size_bytes for one in (*entries, *begun))
    names = tuple(entry.name for entry in entries)
    exactly = f"hf:{repository}"
    return Removal(repository, REPOSITORY, exactly, size_bytes, names, repository=repository)


def _remove_repository(repository: str, cache: Path) -> None:
    """All revisions, and what was begun."""
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir(cache)
    repos = [one for one in found.repos if one.repo_type == "model" and one.repo_id == repository]
    commits = [revision.commit_hash for one in repos for revision in one.revisions]
    folder = _folder(cache, repository)
    for path in folder.glob("blobs/*.incomplete"):
        path.unlink(missing_ok=True)
    if commits:
        found.delete_revisions(*commits).execute()
    remove_empty({folder / "blobs"}, cache)
    _check_gone(folder / SNAPSHOTS, folder)


def _remove_revision(repository: str, commit: str, cache: Path) -> None:
    """One revision, and the contents that no other has."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(cache).delete_revisions(commit).execute()
    folder = _folder(cache, repository)
    _check_gone(folder / SNAPSHOTS / commit, folder)


def _remove_files(files: Sequence[Path], cache: Path) -> None:
    """Links of snapshots, and the contents that nothing else links to."""
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir(cache)
    wanted = {path.absolute() for path in files}
    everything = (f for repo in found.repos for revision in repo.revisions for f in revision.files)
    chosen = [file for file in everything if Path(file.file_path).absolute() in wanted]
    if chosen:
        found.delete_files(*chosen).execute()
    for path in files:
        _check_gone(path, _folder(cache, repository_of(path)))


def _folder(cache: Path, repository: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def _check_gone(path: Path, repository: Path) -> None:
    """Raises ModelUnusable: huggingface_hub leaves out what it finds damaged."""
    if path.exists():
        raise ModelUnusable(
            f"{path} is still there: huggingface_hub finds the cache of that repository damaged "
            f"and leaves it alone. Remove the folder {repository} with the means of your system."
        )


def remove_empty(folders: set[Path], within: Path | None) -> None:
    """Folders inside `within` that nothing is left in, and those above them."""
    for folder in folders:
        for place in (folder, *folder.parents):
            if within is None or within.resolve() not in place.resolve().parents:
                break
            try:
                place.rmdir()
            except OSError:  # something is in it, or it is gone
                break
