"""What `okno rm` may remove: models in the models folder, repositories in the hub's cache, and
files that okno made. Never anything outside these, nor what beside a model is no part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from okno.convert.provenance import note_of
from okno.core.errors import BadSetting, ModelNotFound, ModelUnusable
from okno.inspect.hub_cache import SNAPSHOTS, Interrupted, interrupted, list_hub
from okno.inspect.listing import Checkpoint, LocalModel, list_folder, missing_parts
from okno.inspect.models import DEMO
from okno.inspect.names import key, nearest
from okno.inspect.source_hub import parse_reference
from okno.inspect.source_open import CONFIG


@dataclass(frozen=True, slots=True)
class Removal:
    """name: for people. what: a word for it. models: the names of the models that go. files: what
    is unlinked; within: where folders that are empty then go, too. repository: of the hub's cache,
    when all of it goes. others: how many files of the folder are no part of the model and stay."""

    name: str
    what: str
    size_bytes: int
    models: tuple[str, ...]
    files: tuple[Path, ...] = ()
    within: Path | None = None
    repository: str | None = None
    others: int = 0


def find_removal(asked: str, models: Path, cache: Path, converted: Path) -> Removal:
    """What `asked` means exactly: nothing is removed by a part of its name.

    Raises BadSetting for what okno may not remove, ModelNotFound for what is not there or is more
    than one thing.
    """
    if asked == DEMO:
        raise BadSetting("The demo model ships with okno and stays; it takes 8.5 MiB.")
    own, made = list_folder(models), list_folder(converted)
    found = [
        *(
            _of_folder(entry, "in the models folder", models)
            for entry in _called(asked, own.entries)
        ),
        *(_of_folder(one, "made by okno", converted) for one in _called(asked, made.entries)),
        *_of_hub(asked, cache),
    ]
    if len(found) == 1:
        return found[0]
    if found:
        shown = "; ".join(f"{one.name} ({one.what})" for one in found)
        raise ModelNotFound(f"{asked!r} is {len(found)} things: {shown}. Give one of these names.")
    names = [entry.name for entry in (*own.entries, *made.entries, *list_hub(cache).entries)]
    near = nearest(asked, names)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`okno models` lists what is here."
    raise ModelNotFound(
        f"Nothing here is called {asked[:200]!r}, in full. {hint} Only what is in the models "
        "folder, in the hub's cache or made by okno can be removed."
    )


def remove(removal: Removal, cache: Path) -> None:
    """Do it. Raises ModelUnusable when the system does not let it."""
    try:
        if removal.repository is not None:
            _remove_repository(removal.repository, cache)
        elif removal.what == HUB_FILE:
            _remove_hub_files(removal.files, cache)
        else:
            for path in removal.files:
                path.unlink(missing_ok=True)
                note_of(path).unlink(missing_ok=True)
            _remove_empty({path.parent for path in removal.files}, removal.within)
    except OSError as error:
        raise ModelUnusable(
            f"{removal.name} cannot be removed: {error.strerror or error} ({error.filename})."
        ) from None


HUB_FILE = "a file in the hub's cache"
OF_A_CHECKPOINT = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|index\.json|jinja|tiktoken)|(tokenizer|spiece)\.model|"
    r"(.*_)?config\.json|(tokenizer|tekken|vocab|params|special_tokens_map|added_tokens)\.json|"
    r"chat_template\.json|(merges|vocab)\.txt|(readme|license|notice|use_policy).*|\.gitattributes"
)


def _called(
    asked: str, entries: Sequence[LocalModel | Checkpoint]
) -> list[LocalModel | Checkpoint]:
    """The entries of that very name, then of that spelling."""
    by_name = [entry for entry in entries if key(entry.name) == key(asked)]
    return by_name or [e for e in entries if key(asked) in {key(word) for word in e.spellings}]


def _of_folder(entry: LocalModel | Checkpoint, what: str, within: Path) -> Removal:
    """A model file with its parts; of a checkpoint its own files in its folder."""
    if isinstance(entry, LocalModel):
        files = _parts(entry.path)
        return Removal(entry.name, what, entry.size_bytes, (entry.name,), files, within)
    files, others = _own_files(entry.path)
    size_bytes = sum(path.lstat().st_size for path in files)
    return Removal(entry.name, what, size_bytes, (entry.name,), files, within, others=others)


def _own_files(folder: Path) -> tuple[tuple[Path, ...], int]:
    """What is of the checkpoint in `folder`, and how many other files there are. Raises BadSetting
    for a folder that may be something else: what ends with `.bin` need not be weights."""
    if not (folder / CONFIG).is_file():
        raise BadSetting(
            f"{folder} has no {CONFIG}, so it may be something else than a model, and okno does "
            "not remove it. Remove it with the means of your system."
        )
    here = sorted(path for path in folder.iterdir() if not path.is_dir())
    own = tuple(path for path in here if OF_A_CHECKPOINT.fullmatch(path.name.lower()))
    return own, len(here) - len(own)


def _parts(path: Path) -> tuple[Path, ...]:
    others = (path.with_name(name) for name in missing_parts([path.name]))
    return (path, *(other for other in others if other.is_file()))


def _of_hub(asked: str, cache: Path) -> list[Removal]:
    """A whole repository by its name (also one that has not come in full), or one model of it."""
    entries = list_hub(cache).entries
    reference = parse_reference(asked)
    if reference is not None and not reference.is_narrowed:
        begun = [one for one in interrupted(cache) if key(one.repository) == key(asked)]
        whole = [one for one in entries if key(_repository_of(one)) == key(asked)]
        if begun or whole:
            name = _repository_of(whole[0]) if whole else begun[0].repository
            return [_whole(name, whole, begun)]
    found = _called(asked, entries)
    return [
        _whole(_repository_of(one), [one], [])
        if isinstance(one, Checkpoint)
        else Removal(one.name, HUB_FILE, one.size_bytes, (one.name,), _parts(one.path))
        for one in found
    ]


def _whole(
    repository: str, entries: Sequence[LocalModel | Checkpoint], begun: Sequence[Interrupted]
) -> Removal:
    size_bytes = sum(one.size_bytes for one in (*entries, *begun))
    names = tuple(entry.name for entry in entries)
    what = "a repository in the hub's cache"
    return Removal(repository, what, size_bytes, names, repository=repository)


def _repository_of(entry: LocalModel | Checkpoint) -> str:
    """`owner/repo` of an entry of the hub's cache."""
    return _repository_of_path(entry.path)


def _repository_of_path(path: Path) -> str:
    named = next(part for part in reversed(path.parts) if part.startswith("models--"))
    return "/".join(named.split("--", 2)[1:])


def _remove_repository(repository: str, cache: Path) -> None:
    """All revisions, and what was begun."""
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir(cache)
    repos = [one for one in found.repos if one.repo_type == "model" and one.repo_id == repository]
    commits = [revision.commit_hash for one in repos for revision in one.revisions]
    folder = cache / f"models--{repository.replace('/', '--')}"
    for path in folder.glob("blobs/*.incomplete"):
        path.unlink(missing_ok=True)
    if commits:
        found.delete_revisions(*commits).execute()
    _remove_empty({folder / "blobs"}, cache)
    _check_gone(folder / SNAPSHOTS, folder)


def _remove_hub_files(files: Sequence[Path], cache: Path) -> None:
    """Links of snapshots, and the contents that nothing else links to."""
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir(cache)
    wanted = {path.absolute() for path in files}
    everything = (f for repo in found.repos for revision in repo.revisions for f in revision.files)
    chosen = [file for file in everything if Path(file.file_path).absolute() in wanted]
    if chosen:
        found.delete_files(*chosen).execute()
    for path in files:
        _check_gone(path, cache / f"models--{_repository_of_path(path).replace('/', '--')}")


def _check_gone(path: Path, repository: Path) -> None:
    """Raises ModelUnusable: huggingface_hub leaves out what it finds damaged."""
    if path.exists():
        raise ModelUnusable(
            f"{path} is still there: huggingface_hub finds the cache of that repository damaged "
            f"and leaves it alone. Remove the folder {repository} with the means of your system."
        )


def _remove_empty(folders: set[Path], within: Path | None) -> None:
    """Folders inside `within` that nothing is left in, and those above them."""
    for folder in folders:
        for place in (folder, *folder.parents):
            if within is None or within.resolve() not in place.resolve().parents:
                break
            try:
                place.rmdir()
            except OSError:  # something is in it, or it is gone
                break
